"""Checks of an annotation file by itself: every line, and what lines say about each other."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from stal_data.amounts import amount
from stal_data.formats import AnnotationFormat, Row
from stal_data.keyframes import AnnotatedKeyFrame, KeyFrame
from stal_data.labels import LabelMap
from stal_data.rows import RowProblem, check_row, read_rows
from stal_data.validation.findings import Finding, Severity


@dataclass(slots=True)
class CheckedRows:
    """The usable rows of a file. lines: the first line of each key frame, the place to name in later findings."""

    rows: list[Row] = field(default_factory=list)
    lines: dict[KeyFrame, int] = field(default_factory=dict)


class RowChecker:
    """Reads one annotation file and collects what is wrong in it."""

    def __init__(self, split: str, path: Path, label_map: LabelMap, *, drop_unknown_labels: bool) -> None:
        self.findings: list[Finding] = []
        self._split, self._path, self._label_map, self._drop = split, path, label_map, drop_unknown_labels
        self._labels: set[int] = set()
        self._seen: dict[tuple[object, ...], int] = {}
        self._windows: dict[KeyFrame, tuple[tuple[int, int] | None, int]] = {}

    def check(self, annotation_format: AnnotationFormat) -> CheckedRows:
        """Return the rows that break no rule of their own."""
        checked = CheckedRows()
        for row in read_rows(self._path, annotation_format):
            if isinstance(row, RowProblem):
                self._report("error", row.rule, row.message, row.line)
                continue
            problems = list(self._problems(row))
            for problem in problems:
                self._report("error", problem.rule, problem.message, problem.line)
            self._compare(row)
            if not problems:
                checked.rows.append(row)
                checked.lines.setdefault(row.key, row.line)
        self._check_label_offset(annotation_format)
        return checked

    def _problems(self, row: Row) -> Iterator[RowProblem]:
        if row.label is not None:
            self._labels.add(row.label)
        for problem in check_row(row, self._label_map):
            if not (self._drop and problem.rule == "label"):
                yield problem

    def _compare(self, row: Row) -> None:
        content = (row.key, row.box, row.label, row.person)
        first = self._seen.setdefault(content, row.line)
        if first != row.line:
            self._report(
                "warning", "duplicate", f"repeats line {first}; it counts once. Remove one of the lines.", row.line
            )
        window, line = self._windows.setdefault(row.key, (row.window, row.line))
        if window != row.window and window is not None and row.window is not None:
            self._report(
                "warning",
                "window",
                f"key frame {row.key} has the window {row.window[0]} to {row.window[1]} here and {window[0]} to "
                f"{window[1]} in line {line}, which is the one that counts. Give all rows of a key frame one window.",
                row.line,
            )

    def _check_label_offset(self, annotation_format: AnnotationFormat) -> None:
        """Labels that fit the map only when moved by one were counted from the wrong number."""
        if self._drop or not self._labels:
            return
        ids = set(self._label_map.ids)
        file_base = 1 - annotation_format.first_label
        found = f"{min(self._labels) - file_base} to {max(self._labels) - file_base}"
        expected = f"{min(ids) - file_base} to {max(ids) - file_base}"
        for offset, way_out in ((1, "subtract 1 from"), (-1, "add 1 to")):
            if self._labels - ids and {label - offset for label in self._labels} <= ids:
                self._report(
                    "error",
                    "label-offset",
                    f"the labels run from {found}, but in the {annotation_format.name} format they run from "
                    f"{expected}: they are off by one. To correct it, {way_out} every label.",
                )
        if self._labels <= ids and min(ids) not in self._labels and annotation_format.first_label == 0:
            self._report(
                "warning",
                "label-offset",
                f"the labels run from {found} and never name the first class, '{self._label_map.names[0]}'. If it "
                f"should occur, they were counted from 1: the format counts from 0 ({expected}).",
            )

    def _report(self, severity: Severity, rule: str, message: str, line: int | None = None) -> None:
        self.findings.append(
            Finding(split=self._split, severity=severity, rule=rule, path=self._path, line=line, message=message)
        )


def unused_classes(
    split: str, path: Path, key_frames: tuple[AnnotatedKeyFrame, ...], label_map: LabelMap
) -> Iterator[Finding]:
    """Yield a warning when classes of the map have no instance: their AP cannot be measured."""
    used = {label for item in key_frames for labels in item.labels for label in labels}
    unused = [label for label in label_map.labels if label.id not in used]
    if unused and used:
        names = ", ".join(f"{label.name} ({label.id})" for label in unused[:10])
        more = f" and {len(unused) - 10} more" if len(unused) > 10 else ""
        yield Finding(
            split=split,
            severity="warning",
            rule="unused-class",
            path=path,
            message=f"{len(unused)} of {amount(label_map.num_classes, 'class')} without an instance: {names}{more}.",
        )
