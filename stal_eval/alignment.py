"""Predictions and ground truth brought to common numbers: which rows count, their key frame and their class."""

from collections.abc import Set
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from stal_data.keyframes import KeyFrame
from stal_data.labels import LabelMap
from stal_eval.columns import Table
from stal_eval.extra import pd
from stal_eval.protocol import Protocol
from stal_eval.rounding import round_decimals


@dataclass(frozen=True, kw_only=True)
class Rows:
    """The N rows that count, in file order.

    key_N: key frame number. class_N: class index. boxes_N4: x1,y1,x2,y2 in [0,1]. score_N: empty for ground truth.
    person_N: number of the person, the same within one table; -1 where it has none.
    """

    key_N: NDArray[np.int32]
    class_N: NDArray[np.int32]
    boxes_N4: NDArray[np.float64]
    score_N: NDArray[np.float64]
    person_N: NDArray[np.int64]

    @property
    def num_rows(self) -> int:
        return len(self.key_N)


@dataclass(frozen=True, kw_only=True)
class Counts:
    """What was read, what was left out and why, what was scored. `rows` are box x class.

    A row of an excluded key frame counts as excluded, whatever its class. prediction_rows_without_ground_truth are on
    key frames without ground truth: wrong, or not scored where the protocol scores annotated key frames only.
    listed_exclusions: key frames that the exclusions name, with rows or without. repeated_ground_truth_rows: scored
    ones with the key frame, box and class of an earlier one, which no prediction can find.
    """

    prediction_rows: int
    ground_truth_rows: int
    listed_exclusions: int
    excluded_key_frames: int
    excluded_prediction_rows: int
    excluded_ground_truth_rows: int
    prediction_rows_outside_label_map: int
    ground_truth_rows_outside_label_map: int
    prediction_rows_below_min_score: int
    prediction_rows_with_empty_box: int
    scored_prediction_rows: int
    scored_ground_truth_rows: int
    repeated_ground_truth_rows: int
    key_frames: int
    key_frames_with_predictions: int
    key_frames_with_ground_truth: int
    key_frames_with_both: int
    prediction_rows_without_ground_truth: int
    rows_of_longest_key_frame: int


@dataclass(frozen=True, kw_only=True)
class Alignment:
    """keys: key frames that have a row on either side, in the order of their numbers; excluded ones are among them.

    recalled_truth: excluded ground-truth rows that count in the recall all the same, where the protocol says so.
    """

    predictions: Rows
    ground_truth: Rows
    keys: tuple[KeyFrame, ...]
    recalled_truth: Rows
    counts: Counts

    @property
    def num_keys(self) -> int:
        return len(self.keys)


def align(
    predictions: Table, ground_truth: Table, label_map: LabelMap, exclusions: Set[KeyFrame], protocol: Protocol
) -> Alignment:
    """Drop what the protocol leaves out before any capacity cuts, then number key frames and classes.

    Classes outside the label map go too, so such rows take no one's place.
    """
    tables = (predictions, ground_truth)
    keys, all_keys = _number_keys(tables)
    num_keys = len(all_keys)
    listed = frozenset() if protocol.exclusions == "ignored" else exclusions
    excluded = np.array([key in listed for key in all_keys], dtype=np.bool_)
    excluded_N, excluded_G = (excluded[key_N] for key_N in keys)
    class_N, class_G = (_class_index(table.label_N, label_map) for table in tables)
    truth = _select(ground_truth, keys[1], class_G, ~excluded_G & (class_G >= 0))
    annotated = np.bincount(truth.key_N, minlength=num_keys) > 0

    known_N = ~excluded_N & (class_N >= 0)
    counts_N = known_N
    if protocol.min_score is not None:
        assert predictions.score_N is not None
        counts_N = known_N & (predictions.score_N > protocol.min_score)
    without_truth_N = counts_N & ~annotated[keys[0]]
    scored_N = counts_N & ~without_truth_N if protocol.frames == "with_ground_truth" else counts_N
    scored = _rounded(_select(predictions, keys[0], class_N, scored_N), protocol)
    per_key = np.bincount(scored.key_N, minlength=num_keys)
    predicted = per_key > 0
    recalled_G = excluded_G & (class_G >= 0) & (protocol.exclusions == "left_out_but_recalled")
    counts = Counts(
        prediction_rows=predictions.num_rows,
        ground_truth_rows=ground_truth.num_rows,
        listed_exclusions=len(exclusions),
        excluded_key_frames=int(excluded.sum()),
        excluded_prediction_rows=int(excluded_N.sum()),
        excluded_ground_truth_rows=int(excluded_G.sum()),
        prediction_rows_outside_label_map=int(((class_N < 0) & ~excluded_N).sum()),
        ground_truth_rows_outside_label_map=int(((class_G < 0) & ~excluded_G).sum()),
        prediction_rows_below_min_score=int((known_N & ~counts_N).sum()),
        prediction_rows_with_empty_box=int(is_empty(scored.boxes_N4).sum()),
        scored_prediction_rows=scored.num_rows,
        scored_ground_truth_rows=truth.num_rows,
        repeated_ground_truth_rows=count_repeated(truth),
        key_frames=int((predicted | annotated).sum()),
        key_frames_with_predictions=int(predicted.sum()),
        key_frames_with_ground_truth=int(annotated.sum()),
        key_frames_with_both=int((predicted & annotated).sum()),
        prediction_rows_without_ground_truth=int(without_truth_N.sum()),
        rows_of_longest_key_frame=int(per_key.max(initial=0)),
    )
    return Alignment(
        predictions=scored,
        ground_truth=truth,
        keys=tuple(all_keys),
        recalled_truth=_select(ground_truth, keys[1], class_G, recalled_G),
        counts=counts,
    )


def is_empty(boxes_N4: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Tell which boxes have no area."""
    return (boxes_N4[:, 0] >= boxes_N4[:, 2]) | (boxes_N4[:, 1] >= boxes_N4[:, 3])


def count_repeated(rows: Rows) -> int:
    """Return how many rows have the key frame, box and class of an earlier one."""
    # Few rows share even x1, and comparing two columns takes a fraction of the time.
    group_N = (rows.key_N.astype(np.int64) << 32) + rows.class_N
    alike_N = pd.DataFrame({"group": group_N, "x1": rows.boxes_N4[:, 0]}).duplicated(keep=False).to_numpy()
    columns = {"group": group_N[alike_N]} | dict(enumerate(rows.boxes_N4[alike_N].T))
    return int(pd.DataFrame(columns).duplicated().sum())


def _rounded(rows: Rows, protocol: Protocol) -> Rows:
    if protocol.score_decimals is None and protocol.box_decimals is None:
        return rows
    return replace(
        rows,
        score_N=round_decimals(rows.score_N, protocol.score_decimals),
        boxes_N4=round_decimals(rows.boxes_N4, protocol.box_decimals),
    )


def _number_keys(tables: tuple[Table, ...]) -> tuple[list[NDArray[np.int32]], list[KeyFrame]]:
    """Return the key frame number of every row of each table, and the key frames in the order of their numbers."""
    videos = sorted({video for table in tables for video in table.videos})
    number = {video: position for position, video in enumerate(videos)}
    span = max(int(table.time_ms_N.max(initial=0)) for table in tables) + 1
    combined = [
        np.array([number[video] for video in table.videos], dtype=np.int64)[table.video_N] * span + table.time_ms_N
        for table in tables
    ]
    codes, values = pd.factorize(np.concatenate(combined))
    split_at = np.cumsum([table.num_rows for table in tables])[:-1]
    keys = [part.astype(np.int32) for part in np.split(codes, split_at)]
    return keys, [KeyFrame(videos[value // span], int(value % span)) for value in values.tolist()]


def _class_index(label_N: NDArray[np.int64], label_map: LabelMap) -> NDArray[np.int32]:
    index_of_id = np.full(max(label_map.ids) + 2, -1, np.int32)
    index_of_id[list(label_map.ids)] = np.arange(label_map.num_classes)
    return index_of_id[np.minimum(label_N, len(index_of_id) - 1)]


def _select(table: Table, key_N: NDArray[np.int32], class_N: NDArray[np.int32], counts_N: NDArray[np.bool_]) -> Rows:
    score_N = np.empty(0) if table.score_N is None else table.score_N
    rows = Rows(key_N=key_N, class_N=class_N, boxes_N4=table.boxes_N4, score_N=score_N, person_N=table.person_N)
    return rows if counts_N.all() else select_rows(rows, counts_N)


def select_rows(rows: Rows, chosen_N: NDArray[np.bool_]) -> Rows:
    """Return some of the rows, in the same order."""
    return Rows(
        key_N=rows.key_N[chosen_N],
        class_N=rows.class_N[chosen_N],
        boxes_N4=rows.boxes_N4[chosen_N],
        score_N=rows.score_N[chosen_N] if len(rows.score_N) else rows.score_N,
        person_N=rows.person_N[chosen_N],
    )
