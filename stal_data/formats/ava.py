"""AVA's format: key frames at any time, labels from 1, and lines that only name a key frame."""

from collections.abc import Iterable, Iterator, Sequence

from stal_data.formats.fields import BadFieldError, Row, integer, parse_box, parse_key
from stal_data.formats.registry import AnnotationFormat
from stal_data.keyframes import AnnotatedKeyFrame
from stal_data.times import format_time

COLUMNS = 8


def _parse(fields: Sequence[str], line: int) -> Row:
    if len(fields) not in (2, COLUMNS - 1, COLUMNS):
        raise BadFieldError(
            "columns",
            f"the line has {len(fields)} columns, but the AVA format has {COLUMNS}: video, time, x1, y1, x2, y2, "
            "label, person (or only video, time for a key frame without people).",
        )
    key = parse_key(fields[0], fields[1])
    time_s = key.time_ms / 1000
    if not any(fields[2:]):
        return Row(line=line, key=key, time_s=time_s, window=None, box=None, label=None, person=-1)
    return Row(
        line=line,
        key=key,
        time_s=time_s,
        window=None,
        box=parse_box(fields[2:6]),
        label=integer("label", fields[6]) if fields[6] else None,
        person=integer("person", fields[7]) if len(fields) == COLUMNS and fields[7] else -1,
    )


AVA = AnnotationFormat(name="ava", parse=_parse, first_label=1, within_seconds=True)


def ava_rows(key_frames: Iterable[AnnotatedKeyFrame]) -> Iterator[Sequence[object]]:
    """Yield the lines of key frames; boxes with every digit of their float32."""
    for item in key_frames:
        key = (item.key.video, format_time(item.key.time_ms))
        if not item.labels:
            yield key
        for box, labels, person in zip(item.boxes_N4, item.labels, item.persons, strict=True):
            for label in sorted(labels) if labels else ("",):
                yield (*key, *map(str, box), label, person)
