"""video-mAP of tubes, by the rules of the code bases that report it."""

from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stal_data.labels import LabelMap
from stal_eval.alignment import Alignment
from stal_eval.extra import pd
from stal_eval.ious import COCO_IOUS, by_iou
from stal_eval.tubes.protocol import TUBE_PROTOCOLS
from stal_eval.tubes.tubes import build_tubes, overlaps, rows_with_persons, shortest_step_ms

TUBE_IOUS = (0.2, *COCO_IOUS)


def video_map(alignment: Alignment, label_map: LabelMap, protocol: str) -> dict[str, Any]:
    """Return video-mAP at TUBE_IOUS, as docs/evaluation.md describes the entry of metrics.json.

    protocol: name in TUBE_PROTOCOLS. Boxes of a person are one tube while they are no further apart than the two
    closest key frames of a video in the ground truth.
    InputError where no row of a side has a person, and where a person is in two places at once.
    """
    rules = TUBE_PROTOCOLS[protocol]
    truth_rows = rows_with_persons(alignment.ground_truth, alignment, label_map, "ground truth")
    rows = rows_with_persons(alignment.predictions, alignment, label_map, "predictions")
    max_gap_ms = shortest_step_ms(truth_rows)
    (truth_rows, truth), (rows, tubes) = build_tubes(truth_rows, max_gap_ms), build_tubes(rows, max_gap_ms)
    dropped = set() if rules.max_overlap is None else _suppressed(rows, rules.max_overlap)
    pairs = overlaps(rows[~rows.tube.isin(dropped)], truth_rows, rules.min_common)
    stays_T, classes = ~tubes.index.isin(dropped), range(label_map.num_classes)
    ap_IK = []
    for iou in TUBE_IOUS:
        hit_T = _hits(pairs[pairs.iou > iou] if rules.above else pairs[pairs.iou >= iou], len(tubes))
        ap_IK.append(
            [_area(hit_T[stays_T & (tubes.label == k)], int((truth.label == k).sum()), rules.area) for k in classes]
        )
    return {
        "protocol": {"name": protocol, **asdict(rules)},
        "max_gap_s": max_gap_ms / 1000,
        **by_iou(TUBE_IOUS, np.array(ap_IK), label_map.names),
        "ground_truth_tubes": len(truth),
        "ground_truth_rows_without_person": int((truth_rows.person < 0).sum()),
        "prediction_tubes": len(tubes),
        "suppressed_prediction_tubes": len(dropped),
        "prediction_rows_without_person": int((rows.person < 0).sum()),
    }


def _suppressed(rows: pd.DataFrame, max_overlap: float) -> set[int]:
    """Return the tubes that overlap a better one that stays by more than this."""
    pairs = overlaps(rows, rows, 1)
    pairs = pairs[(pairs.tube_a < pairs.tube_b) & (pairs.iou > max_overlap)].sort_values("tube_b")
    dropped: set[int] = set()
    for better, tube in zip(pairs.tube_a, pairs.tube_b, strict=True):
        if better not in dropped:
            dropped.add(tube)
    return dropped


def _hits(pairs: pd.DataFrame, num_tubes: int) -> NDArray[np.bool_]:
    """Return which tubes have a ground-truth tube: the best first, each the one with the highest IoU that is left."""
    hit_T = np.zeros(num_tubes, np.bool_)
    taken: set[int] = set()
    pairs = pairs.sort_values(["tube_a", "iou", "tube_b"], ascending=[True, False, True])
    for tube, truth in zip(pairs.tube_a.astype(int), pairs.tube_b, strict=True):
        if not hit_T[tube] and truth not in taken:
            hit_T[tube] = True
            taken.add(truth)
    return hit_T


def _area(hit_T: NDArray[np.bool_], num_truth: int, area: str) -> float:
    """Return AP of the tubes of a class, best first; NaN without ground truth."""
    if num_truth == 0:
        return np.nan
    height_T = np.cumsum(hit_T) / np.arange(1, len(hit_T) + 1)
    if area == "trapezoids":
        height_T = (height_T + np.append(1.0, height_T)[:-1]) / 2
    else:
        height_T = np.maximum.accumulate(height_T[::-1])[::-1]
    return float(height_T[hit_T].sum() / num_truth)
