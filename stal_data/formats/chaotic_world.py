"""The format of Chaotic World: a key frame a second, its window of frames, labels from 0."""

from collections.abc import Sequence
from functools import lru_cache

from stal_data.errors import InputError
from stal_data.formats.fields import BadFieldError, Row, integer, parse_box, parse_video
from stal_data.formats.registry import AnnotationFormat
from stal_data.keyframes import KeyFrame
from stal_data.times import parse_seconds

COLUMNS = 13


def _parse(fields: Sequence[str], line: int) -> Row:
    if len(fields) < COLUMNS:
        raise BadFieldError(
            "columns",
            f"the line has {len(fields)} columns, but the Chaotic World format has {COLUMNS}: video, "
            "key-frame number, x1, y1, x2, y2, label (from 0), person, frame_start, frame_end, time in seconds, 0, 0.",
        )
    start, end = integer("frame_start", fields[-5]), integer("frame_end", fields[-4])
    key, time_s = _parse_key(fields[0], fields[-3])
    return Row(
        line=line,
        key=key,
        time_s=time_s,
        window=(start, end),
        box=parse_box(fields[2:6]),
        label=integer("label", fields[6]) + 1,
        person=integer("person", fields[7]),
    )


@lru_cache(maxsize=4096)
def _parse_key(video: str, time: str) -> tuple[KeyFrame, float]:
    """Return the key frame and the time in seconds. The published code makes `%04d` of int(time) the key."""
    video = parse_video(video)
    try:
        seconds = parse_seconds(time)
    except InputError as error:
        raise BadFieldError("time", str(error)) from None
    return KeyFrame(video, 1000 * int(seconds)), seconds


CHAOTIC_WORLD = AnnotationFormat(name="chaotic_world", parse=_parse, first_label=0, published_loses_first_row=True)
