"""Rows of annotation files, with every rule they must keep; used by the strict readers and by `dataset validate`."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from stal_data.csv_lines import broken_header_rule, read_csv
from stal_data.formats import AnnotationFormat, BadFieldError, Row
from stal_data.formats.fields import parse_key
from stal_data.keyframes import KeyFrame
from stal_data.labels import LabelMap

BOX_SLACK = 1e-6
"""Boxes this far outside [0,1] count as rounding and are clipped."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RowProblem:
    """A rule that a line breaks. rule: a short name; message: the value, the rule and the way out."""

    line: int
    rule: str
    message: str


def read_rows(path: Path, annotation_format: AnnotationFormat) -> Iterator[Row | RowProblem]:
    """Yield every line of a file, as a row or as what keeps it from being one. Other values are not checked yet.

    Rows of one key frame have one time: people of two instants are not in one picture.
    """
    first_rows: dict[KeyFrame, Row] = {}
    for line, fields in read_csv(path):
        try:
            _refuse_first_header(fields, line)
            row = annotation_format.parse(fields, line)
            first = first_rows.setdefault(row.key, row)
            if row.time_s != first.time_s:
                raise BadFieldError(
                    "time",
                    f"the time is {row.time_s}, but {first.time_s} in line {first.line} of the same key frame "
                    f"{row.key}: a key frame is one instant, and this format has one a second. Keep the rows of one "
                    "instant.",
                )
            yield row
        except BadFieldError as error:
            yield _problem(fields, line, error)


def _problem(fields: Sequence[str], line: int, error: BadFieldError) -> RowProblem:
    header = broken_header_rule(fields, line)
    if header is not None:
        return RowProblem(line=line, rule="header", message=header)
    return RowProblem(line=line, rule=error.rule, message=str(error))


def check_row(row: Row, label_map: LabelMap) -> list[RowProblem]:
    """Return the rules that the values of a row break."""
    problems = []

    def report(rule: str, message: str) -> None:
        problems.append(RowProblem(line=row.line, rule=rule, message=message))

    if row.box is not None:
        x1, y1, x2, y2 = row.box
        if min(row.box) < -BOX_SLACK or max(row.box) > 1 + BOX_SLACK:
            report(
                "box",
                f"the box {_text(row.box)} leaves [0,1]: divide x by the frame's width and y by its height, and "
                "cut the box at the frame's edge.",
            )
        if x1 >= x2 or y1 >= y2:
            report("box", f"the box {_text(row.box)} is inverted or empty: write x1,y1,x2,y2 with x1 < x2 and y1 < y2.")
    if row.label is not None and row.label not in label_map:
        report("label", f"label id {row.label} is not in {label_map.source}, {label_map.describe_ids()}.")
    if row.window is not None and row.window[0] >= row.window[1]:
        start, end = row.window
        report(
            "window",
            f"frame_start {start} and frame_end {end} enclose no frame: frame_end (exclusive) must be greater.",
        )
    return problems


def _text(box: tuple[float, ...]) -> str:
    return ",".join(f"{value:g}" for value in box)


def _refuse_first_header(fields: Sequence[str], line: int) -> None:
    """Look for a header before numbers are read: the column positions of one are numbers, too."""
    rule = broken_header_rule(fields, line) if line == 1 else None
    if rule is not None:
        raise BadFieldError("header", rule)


def read_keys(path: Path, annotation_format: AnnotationFormat | None) -> Iterator[tuple[int, KeyFrame | RowProblem]]:
    """Yield the key frames of a two-column file (video,time) with their lines.

    annotation_format: of the data set. Where its key frames are at whole seconds, another time would name none.
    """
    for line, fields in read_csv(path):
        try:
            _refuse_first_header(fields, line)
            if len(fields) != 2:
                raise BadFieldError("columns", f"the line has {len(fields)} columns, but needs 2: video,time.")
            key = parse_key(*fields)
            if key.time_ms % 1000 and not (annotation_format and annotation_format.within_seconds):
                raise BadFieldError(
                    "time",
                    f"the time is {fields[1]}, but must be whole seconds, as the key frames of this data set are: "
                    "write the second, or remove the line.",
                )
            yield line, key
        except BadFieldError as error:
            yield line, _problem(fields, line, error)
