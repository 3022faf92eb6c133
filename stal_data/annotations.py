"""Annotation files as key frames: one entry a key frame, one box a person, all of the person's actions with it."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from stal_data.csv_lines import write_csv
from stal_data.errors import InputError
from stal_data.formats import FORMATS, AnnotationFormat, Row
from stal_data.keyframes import AnnotatedKeyFrame, KeyFrame
from stal_data.labels import LabelMap
from stal_data.rows import RowProblem, check_row, read_keys, read_rows
from stal_data.times import format_time


def read_annotations(
    path: Path,
    annotation_format: AnnotationFormat,
    label_map: LabelMap,
    *,
    drop_unknown_labels: bool = False,
    first_row_lost: bool = False,
) -> tuple[AnnotatedKeyFrame, ...]:
    """Read a file of either format, sorted by key frame; the first bad line is an error.

    drop_unknown_labels: leave out labels that the map lacks (AVA annotates 80 actions, its map scores 60).
    first_row_lost: the file was made from a published pickle, so the published layout has every row that it has;
        else its first row counts one less there (Chaotic World only).
    """
    rows = _good_rows(path, annotation_format, label_map, drop_unknown_labels)
    return group_rows(rows, label_map, lose_first=annotation_format.published_loses_first_row and not first_row_lost)


def read_chaotic_world(path: Path, label_map: LabelMap) -> tuple[AnnotatedKeyFrame, ...]:
    """Read a Chaotic World CSV (labels from 0 there)."""
    return read_annotations(path, FORMATS["chaotic_world"], label_map)


def read_exclusions(path: Path, annotation_format: AnnotationFormat | None) -> frozenset[KeyFrame]:
    """Read the key frames (video,time) that take no part in training and scoring.

    annotation_format: of the data set; only AVA's has times within a second.
    """
    keys = set()
    for _, key in read_keys(path, annotation_format):
        if isinstance(key, RowProblem):
            raise _row_error(path, key)
        keys.add(key)
    return frozenset(keys)


def write_ground_truth(path: Path, key_frames: Iterable[AnnotatedKeyFrame]) -> None:
    """Write the scoring CSV: video,seconds,x1,y1,x2,y2,label id,person; boxes with every digit of their float32."""
    write_csv(path, _ground_truth_rows(key_frames))


def _ground_truth_rows(key_frames: Iterable[AnnotatedKeyFrame]) -> Iterator[Sequence[object]]:
    for item in key_frames:
        time = format_time(item.key.time_ms)
        for box, labels, person in zip(item.boxes_N4, item.labels, item.persons, strict=True):
            for label in sorted(labels):
                yield (item.key.video, time, *map(str, box), label, person)


def group_rows(rows: Iterable[Row], label_map: LabelMap, *, lose_first: bool = False) -> tuple[AnnotatedKeyFrame, ...]:
    """Group rows by key frame (sorted), then by person and box; labels that the map lacks are left out.

    lose_first: the first row is one clip less in `row_counts`; nothing else depends on it.
    """
    groups: dict[KeyFrame, _Group] = {}
    for number, row in enumerate(rows):
        group = groups.setdefault(row.key, _Group(row.window))
        if row.box is not None:
            counts = group.people.setdefault((row.person, row.box), {})
            if row.label is not None and row.label in label_map:
                counts[row.label] = counts.get(row.label, 0) + (number > 0 or not lose_first)
    return tuple(_annotated(key, groups[key]) for key in sorted(groups))


@dataclass(slots=True)
class _Group:
    """A key frame while its rows are collected; people: (person, box) -> label id -> rows, in file order."""

    window: tuple[int, int] | None
    people: dict[tuple[int, tuple[float, float, float, float]], dict[int, int]] = field(default_factory=dict)


def _good_rows(
    path: Path, annotation_format: AnnotationFormat, label_map: LabelMap, drop_unknown_labels: bool
) -> Iterator[Row]:
    for row in read_rows(path, annotation_format):
        if isinstance(row, RowProblem):
            raise _row_error(path, row)
        for problem in check_row(row, label_map):
            if not (drop_unknown_labels and problem.rule == "label"):
                raise _row_error(path, problem)
        yield row


def _annotated(key: KeyFrame, group: _Group) -> AnnotatedKeyFrame:
    boxes = np.array([box for _, box in group.people], dtype=np.float32).reshape(-1, 4)
    return AnnotatedKeyFrame(
        key=key,
        window=group.window,
        boxes_N4=boxes.clip(0, 1),
        labels=tuple(frozenset(counts) for counts in group.people.values()),
        persons=tuple(person for person, _ in group.people),
        row_counts=tuple(tuple(counts[label] for label in sorted(counts)) for counts in group.people.values()),
    )


def _row_error(path: Path, problem: RowProblem) -> InputError:
    return InputError(
        f"{path}, line {problem.line}: {problem.message} `stal-cli dataset validate` lists all such lines."
    )
