"""Evaluation from files or DataFrames to a result."""

from collections.abc import Collection, Iterable
from hashlib import sha256
from pathlib import Path

import numpy as np
import pandas as pd

from stal_data.annotations import read_exclusions
from stal_data.errors import InputError
from stal_data.keyframes import KeyFrame
from stal_data.labels import LabelMap
from stal_eval.alignment import Alignment, Counts, align
from stal_eval.capacities import check_capacities, parse_capacities
from stal_eval.csv_file import digest_of
from stal_eval.curve import Curve
from stal_eval.result import Evaluation
from stal_eval.table import load_table

_AVA_CAPACITY = 50
_WIDE_BOUNDS = 0.001  # a tenth of a point of mAP


def evaluate(
    predictions: Path | str | pd.DataFrame,
    ground_truth: Path | str | pd.DataFrame,
    label_map: Path | str | LabelMap,
    *,
    exclusions: Path | str | Collection[KeyFrame] | None = None,
    capacities: str | Iterable[int] = range(50, 2200),
    iou: float = 0.5,
    tie_bounds: bool = True,
) -> Evaluation:
    """Return mAP at every capacity.

    A capacity keeps that many best-scored rows (box x class) of each key frame. mAP is the mean, over the classes with
    ground truth, of the area under the interpolated precision-recall curve; a row is right when the ground-truth box of
    its class with the highest IoU reaches `iou` and no better-scored row has it. Equal scores rank in file order.

    predictions: rows video,timestamp,x1,y1,x2,y2,label,score. ground_truth: the same with a person id, or nothing, as
    last column. Files have no header and may be gzip; DataFrames have these column names. Timestamps are whole seconds,
    boxes lie in [0,1], labels are ids of the label map. exclusions: a file of video,timestamp, or key frames.
    capacities: numbers (0: no limit), or text as on the command line, `50:2200` or `50,100`.
    tie_bounds: also bound mAP over the orders of equal scores, which takes three times as long.
    """
    from stal_eval.matching import match  # numba takes half a second to import; errors in the files come first
    from stal_eval.sweep import plan_columns, sweep
    from stal_eval.ties import bound_ties, count_tied_rows

    wanted = parse_capacities(capacities) if isinstance(capacities, str) else check_capacities(capacities)
    if not 0 < iou <= 1:
        raise InputError(f"iou is {iou}, but must be above 0 and at most 1; AVA's is 0.5.")
    labels = label_map if isinstance(label_map, LabelMap) else LabelMap.read(Path(label_map))
    excluded, exclusions_digest = _read_exclusions(exclusions)
    truth_table = load_table(ground_truth, "ground truth")
    prediction_table = load_table(predictions, "predictions")
    alignment = align(prediction_table, truth_table, labels, excluded)
    if alignment.ground_truth.num_rows == 0:
        raise InputError(_nothing_to_find(truth_table.source, labels, alignment.counts))
    matching = match(alignment, labels.num_classes, iou)
    columns = plan_columns((*wanted, _AVA_CAPACITY), alignment.counts.rows_of_longest_key_frame)
    ties = bound_ties(matching, alignment.predictions, alignment.num_keys, columns) if tie_bounds else None
    curve = Curve(capacities=(*wanted, _AVA_CAPACITY), ap_CK=sweep(matching, columns), ties=ties)
    return Evaluation(
        curve=curve.part(slice(-1)),
        at_50=curve.part(slice(-1, None)),
        label_map=labels,
        truth_count_K=matching.truth_count_K,
        prediction_count_K=np.diff(matching.class_offsets),
        min_iou=iou,
        counts=alignment.counts,
        tied_rows=count_tied_rows(matching, alignment.predictions),
        digests={
            "predictions": prediction_table.digest,
            "ground_truth": truth_table.digest,
            "label_map": labels.digest,
            "exclusions": exclusions_digest,
        },
        warnings=(*_warnings(alignment), *_tie_warnings(curve)),
    )


def _read_exclusions(exclusions: Path | str | Collection[KeyFrame] | None) -> tuple[frozenset[KeyFrame], str | None]:
    if exclusions is None:
        return frozenset(), None
    if isinstance(exclusions, Path | str):
        return read_exclusions(Path(exclusions)), digest_of(Path(exclusions))
    keys = frozenset(exclusions)
    return keys, sha256("".join(f"{key}\n" for key in sorted(keys)).encode()).hexdigest()


def _nothing_to_find(source: str, label_map: LabelMap, counts: Counts) -> str:
    if counts.ground_truth_rows == 0:
        return f"{source} holds no row, so there is nothing to find: give the split's ground truth."
    return (
        f"{source}: none of the {counts.ground_truth_rows} rows can be scored, {counts.excluded_ground_truth_rows} are "
        f"on excluded key frames and the labels of {counts.ground_truth_rows_outside_label_map} are not in "
        f"{label_map.source}, {label_map.describe_ids()}: check the label map and the exclusions."
    )


def _warnings(alignment: Alignment) -> list[str]:
    counts = alignment.counts
    warnings = []
    if counts.prediction_rows == 0:
        warnings.append("The predictions hold no row, so mAP is 0.")
    elif counts.scored_prediction_rows == 0:
        warnings.append("No prediction row is left after exclusions and label map, so mAP is 0.")
    elif counts.key_frames_with_both == 0:
        warnings.append(
            "Predictions and ground truth share no key frame, so mAP is 0: compare the video ids and the timestamps "
            "(whole seconds) of the two files."
        )
    if counts.ground_truth_rows_outside_label_map:
        warnings.append(
            f"{counts.ground_truth_rows_outside_label_map} ground-truth rows have labels outside the label map and do "
            "not count."
        )
    return warnings


def _tie_warnings(curve: Curve) -> list[str]:
    bounds = curve.mean_bounds_C()
    if bounds is None:
        return []
    gaps = bounds[1] - bounds[0]
    widest = int(gaps.argmax())
    if gaps[widest] <= _WIDE_BOUNDS:
        return []
    return [
        f"Equal scores leave mAP open by up to {100 * gaps[widest]:.2f} points (at capacity "
        f"{curve.capacities[widest] or 'no limit'}): between {100 * bounds[0][widest]:.2f} and "
        f"{100 * bounds[1][widest]:.2f}, by the order of equal scores alone. Write scores with full precision."
    ]
