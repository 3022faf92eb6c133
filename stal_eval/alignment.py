"""Predictions and ground truth brought to common numbers: which rows count, their key frame and their class."""

from collections.abc import Set
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from stal_data.keyframes import KeyFrame
from stal_data.labels import LabelMap
from stal_eval.table import Table


@dataclass(frozen=True, kw_only=True)
class Rows:
    """The N rows that count, in file order.

    key_N: key frame number. class_N: class index. boxes_N4: x1,y1,x2,y2 in [0,1]. score_N: empty for ground truth.
    """

    key_N: NDArray[np.int32]
    class_N: NDArray[np.int32]
    boxes_N4: NDArray[np.float64]
    score_N: NDArray[np.float64]

    @property
    def num_rows(self) -> int:
        return len(self.key_N)


@dataclass(frozen=True, kw_only=True)
class Counts:
    """What was read, what was left out and why, what was scored. `rows` are box x class; key frames are seconds.

    A row of an excluded key frame counts as excluded, whatever its class.
    """

    prediction_rows: int
    ground_truth_rows: int
    excluded_key_frames: int
    excluded_prediction_rows: int
    excluded_ground_truth_rows: int
    prediction_rows_outside_label_map: int
    ground_truth_rows_outside_label_map: int
    scored_prediction_rows: int
    scored_ground_truth_rows: int
    key_frames: int
    key_frames_with_predictions: int
    key_frames_with_ground_truth: int
    key_frames_with_both: int
    prediction_rows_without_ground_truth: int
    rows_of_longest_key_frame: int


@dataclass(frozen=True, kw_only=True)
class Alignment:
    """num_keys: key frames that have a row on either side, numbered from 0."""

    predictions: Rows
    ground_truth: Rows
    num_keys: int
    counts: Counts


def align(predictions: Table, ground_truth: Table, label_map: LabelMap, exclusions: Set[KeyFrame]) -> Alignment:
    """Drop excluded key frames and classes outside the label map, then number key frames and classes.

    The classes go before any capacity cuts, so such rows take no one's place.
    """
    tables = (predictions, ground_truth)
    keys, all_keys = _number_keys(tables)
    excluded = np.array([key in exclusions for key in all_keys], dtype=np.bool_)
    outside, sides = [], []
    for table, key_N in zip(tables, keys, strict=True):
        excluded_N = excluded[key_N]
        class_N = _class_index(table.label_N, label_map)
        outside.append(int(((class_N < 0) & ~excluded_N).sum()))
        sides.append(_select(table, key_N, class_N, ~excluded_N & (class_N >= 0)))
    scored, truth = sides
    num_keys = len(all_keys)
    per_key = np.bincount(scored.key_N, minlength=num_keys)
    predicted, annotated = per_key > 0, np.bincount(truth.key_N, minlength=num_keys) > 0
    counts = Counts(
        prediction_rows=predictions.num_rows,
        ground_truth_rows=ground_truth.num_rows,
        excluded_key_frames=int(excluded.sum()),
        excluded_prediction_rows=predictions.num_rows - outside[0] - scored.num_rows,
        excluded_ground_truth_rows=ground_truth.num_rows - outside[1] - truth.num_rows,
        prediction_rows_outside_label_map=outside[0],
        ground_truth_rows_outside_label_map=outside[1],
        scored_prediction_rows=scored.num_rows,
        scored_ground_truth_rows=truth.num_rows,
        key_frames=int((predicted | annotated).sum()),
        key_frames_with_predictions=int(predicted.sum()),
        key_frames_with_ground_truth=int(annotated.sum()),
        key_frames_with_both=int((predicted & annotated).sum()),
        prediction_rows_without_ground_truth=int(per_key[~annotated].sum()),
        rows_of_longest_key_frame=int(per_key.max(initial=0)),
    )
    return Alignment(predictions=scored, ground_truth=truth, num_keys=num_keys, counts=counts)


def _number_keys(tables: tuple[Table, ...]) -> tuple[list[NDArray[np.int32]], list[KeyFrame]]:
    """Return the key frame number of every row of each table, and the key frames in the order of their numbers."""
    videos = sorted({video for table in tables for video in table.videos})
    number = {video: position for position, video in enumerate(videos)}
    span = max(int(table.timestamp_N.max(initial=0)) for table in tables) + 1
    combined = [
        np.array([number[video] for video in table.videos], dtype=np.int64)[table.video_N] * span + table.timestamp_N
        for table in tables
    ]
    codes, values = pd.factorize(np.concatenate(combined))
    split_at = np.cumsum([table.num_rows for table in tables])[:-1]
    keys = [part.astype(np.int32) for part in np.split(codes, split_at)]
    return keys, [KeyFrame(videos[value // span], int(value % span)) for value in values.tolist()]


def _class_index(label_N: NDArray[np.int64], label_map: LabelMap) -> NDArray[np.int32]:
    """Return class indices; -1 for a label that the map does not have."""
    index_of_id = np.full(max(label_map.ids) + 2, -1, np.int32)
    index_of_id[list(label_map.ids)] = np.arange(label_map.num_classes)
    return index_of_id[np.minimum(label_N, len(index_of_id) - 1)]


def _select(table: Table, key_N: NDArray[np.int32], class_N: NDArray[np.int32], counts_N: NDArray[np.bool_]) -> Rows:
    score_N = np.empty(0) if table.score_N is None else table.score_N
    if counts_N.all():
        return Rows(key_N=key_N, class_N=class_N, boxes_N4=table.boxes_N4, score_N=score_N)
    return Rows(
        key_N=key_N[counts_N],
        class_N=class_N[counts_N],
        boxes_N4=table.boxes_N4[counts_N],
        score_N=score_N if table.score_N is None else score_N[counts_N],
    )
