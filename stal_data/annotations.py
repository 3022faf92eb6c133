"""Annotation files as key frames: one entry a key frame, one box a person, all of the person's actions with it."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from stal_data.errors import InputError
from stal_data.files import write_atomically
from stal_data.keyframes import AnnotatedKeyFrame, KeyFrame
from stal_data.labels import LabelMap
from stal_data.rows import AnnotationFormat, Row, RowProblem, check_row, read_keys, read_rows


def read_annotations(
    path: Path, annotation_format: AnnotationFormat, label_map: LabelMap, *, drop_unknown_labels: bool = False
) -> tuple[AnnotatedKeyFrame, ...]:
    """Read a file of either format, sorted by key frame; the first bad line is an error.

    drop_unknown_labels: leave out labels that the map lacks (AVA annotates 80 actions, its map scores 60).
    """
    return group_rows(_good_rows(path, annotation_format, label_map, drop_unknown_labels), label_map)


def read_chaotic_world(path: Path, label_map: LabelMap) -> tuple[AnnotatedKeyFrame, ...]:
    """Read a Chaotic World CSV (labels from 0 there)."""
    return read_annotations(path, "chaotic_world", label_map)


def read_ava(path: Path, label_map: LabelMap, *, drop_unknown_labels: bool = False) -> tuple[AnnotatedKeyFrame, ...]:
    """Read an AVA CSV (labels from 1). Lines with only video,time are key frames without people."""
    return read_annotations(path, "ava", label_map, drop_unknown_labels=drop_unknown_labels)


def read_exclusions(path: Path) -> frozenset[KeyFrame]:
    """Read the key frames (video,time) that take no part in training and scoring."""
    keys = set()
    for _, key in read_keys(path):
        if isinstance(key, RowProblem):
            raise _row_error(path, key)
        keys.add(key)
    return frozenset(keys)


def write_ground_truth(path: Path, key_frames: Iterable[AnnotatedKeyFrame]) -> None:
    """Write the scoring CSV: video,time (%04d),x1,y1,x2,y2,label id,person; boxes with every digit of their float32."""
    write_atomically(path, "".join(_ground_truth_lines(key_frames)))


def _ground_truth_lines(key_frames: Iterable[AnnotatedKeyFrame]) -> Iterator[str]:
    for key_frame in key_frames:
        for box, labels, person in zip(key_frame.boxes_N4, key_frame.labels, key_frame.persons, strict=True):
            coordinates = ",".join(str(value) for value in box)
            for label in sorted(labels):
                yield f"{key_frame.key},{coordinates},{label},{person}\n"


def group_rows(rows: Iterable[Row], label_map: LabelMap) -> tuple[AnnotatedKeyFrame, ...]:
    """Group rows by key frame (sorted), then by person and box; labels that the map lacks are left out."""
    groups: dict[KeyFrame, _Group] = {}
    for row in rows:
        group = groups.setdefault(row.key, _Group(row.window))
        if row.box is not None:
            labels = group.people.setdefault((row.person, row.box), set())
            if row.label is not None and row.label in label_map:
                labels.add(row.label)
    return tuple(_annotated(key, groups[key]) for key in sorted(groups))


@dataclass(slots=True)
class _Group:
    """A key frame while its rows are collected; people: (person, box) -> label ids, in file order."""

    window: tuple[int, int] | None
    people: dict[tuple[int, tuple[float, float, float, float]], set[int]] = field(default_factory=dict)


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
        labels=tuple(frozenset(labels) for labels in group.people.values()),
        persons=tuple(person for person, _ in group.people),
    )


def _row_error(path: Path, problem: RowProblem) -> InputError:
    return InputError(
        f"{path}, line {problem.line}: {problem.message} `stal-cli dataset validate` lists all such lines."
    )
