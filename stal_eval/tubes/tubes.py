"""From rows with persons to tubes, the consecutive boxes of one person with one class; and how much tubes overlap."""

import numpy as np

from stal_data.errors import InputError
from stal_data.labels import LabelMap
from stal_eval.alignment import Alignment, Rows
from stal_eval.extra import pd

_BOX = ["x1", "y1", "x2", "y2"]


def rows_with_persons(rows: Rows, alignment: Alignment, label_map: LabelMap, side: str) -> pd.DataFrame:
    """Return video, time_ms, class, person, score and box of each row; rows that are the same in all count once.

    side: what messages call the rows.
    """
    if rows.num_rows and (rows.person_N < 0).all():
        raise InputError(
            f"tubes: no row of the {side} that counts names a person: give each row the person's id in a last column, "
            "after the label id in ground truth, after the score in predictions."
        )
    keys = pd.DataFrame([(key.video, key.time_ms) for key in alignment.keys], columns=["video", "time_ms"])
    frame = keys.take(rows.key_N).reset_index(drop=True).assign(label=rows.class_N)
    frame = frame.assign(person=rows.person_N, score=rows.score_N if len(rows.score_N) else 0.0)
    frame[_BOX] = rows.boxes_N4
    frame = frame[~(frame.duplicated() & (frame.person >= 0))]
    twice = frame[frame.duplicated(["video", "time_ms", "label", "person"]) & (frame.person >= 0)]
    if len(twice):
        row = twice.index[0]
        name, key = label_map.names[rows.class_N[row]], alignment.keys[rows.key_N[row]]
        raise InputError(
            f"tubes: a person of the {side} has two rows of the class '{name}' in {key}, with different boxes "
            "or scores: give the other person an id of its own."
        )
    return frame


def shortest_step_ms(rows: pd.DataFrame) -> int:
    """Return the shortest time between two key frames of one video; 0 where no video has two."""
    moments = rows[["video", "time_ms"]].drop_duplicates().sort_values(["video", "time_ms"])
    return int(moments.groupby("video").time_ms.diff().min(skipna=True) if moments.video.duplicated().any() else 0)


def build_tubes(rows: pd.DataFrame, max_gap_ms: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the rows with the number of their tube, and label and score of tubes 0, 1, ..., the best first.

    Boxes up to max_gap_ms apart are one tube; one without a person is a tube of its own. Its score is the mean of its
    rows'; of equal ones the first of the file comes first.
    """
    rows = rows.sort_values(["video", "label", "person", "time_ms"], kind="stable")
    of_whom = rows[["video", "label", "person"]]
    goes_on = (of_whom == of_whom.shift()).all(axis=1) & (rows.person >= 0) & (rows.time_ms.diff() <= max_gap_ms)
    number = (~goes_on).cumsum()
    groups = rows.assign(row=rows.index).groupby(number)
    tubes = groups.agg(label=("label", "first"), score=("score", "mean"), row=("row", "min"))
    tubes = tubes.sort_values(["score", "row"], ascending=[False, True])
    place = pd.Series(np.arange(len(tubes)), index=tubes.index)
    return rows.assign(tube=number.map(place)), tubes.reset_index(drop=True)


def overlaps(a: pd.DataFrame, b: pd.DataFrame, min_common: int) -> pd.DataFrame:
    """Return tube_a, tube_b and iou of the tubes of equal video and class that share min_common key frames or more.

    a, b: rows with their tubes. iou: the sum of the IoUs of the boxes in the key frames that both tubes have, over the
    number of key frames that either has.
    """
    length_a, length_b = a.groupby("tube").size(), b.groupby("tube").size()
    of_b = dict(iter(b.groupby("video")))
    found = [pd.DataFrame({"tube_a": [], "tube_b": [], "iou": []})]
    for video, of_a in a.groupby("video"):  # one video at a time bounds the memory
        pairs = of_a.merge(of_b.get(video, b[:0]), on=["label", "time_ms"], suffixes=("_a", "_b"))
        box_a_P4, box_b_P4 = (pairs[[f"{name}_{side}" for name in _BOX]].to_numpy() for side in "ab")
        low, high = np.maximum(box_a_P4, box_b_P4), np.minimum(box_a_P4, box_b_P4)
        common = np.prod(np.maximum(high[:, 2:] - low[:, :2], 0), axis=1)
        either = sum(np.prod(box_P4[:, 2:] - box_P4[:, :2], axis=1) for box_P4 in (box_a_P4, box_b_P4)) - common
        box_iou = np.divide(common, either, out=np.zeros_like(common), where=either > 0)
        sums = pairs.assign(iou=box_iou).groupby(["tube_a", "tube_b"]).iou.agg(["sum", "size"]).reset_index()
        sums = sums[sums["size"] >= min_common]
        lengths = sums.tube_a.map(length_a) + sums.tube_b.map(length_b) - sums["size"]
        found.append(sums.assign(iou=sums["sum"] / lengths)[["tube_a", "tube_b", "iou"]])
    return pd.concat(found[1:] or found)
