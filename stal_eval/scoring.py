"""From matched rows to an Evaluation: average precision at every capacity, in one pass."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from stal_eval.alignment import Alignment, Counts
from stal_eval.capacities import NO_LIMIT, parse_capacities
from stal_eval.chosen import Choice
from stal_eval.curve import Curve, TieBounds
from stal_eval.details import explain
from stal_eval.diagnosis import diagnose
from stal_eval.matching import Matching, keep
from stal_eval.preparation import Prepared
from stal_eval.protocol import Protocol
from stal_eval.result import Evaluation
from stal_eval.sweep import plan_columns, sweep
from stal_eval.ties import bound_ties, count_tied_rows

_AVA_CAPACITY = 50
_WIDE_BOUNDS = 0.001  # a tenth of a point of mAP
_FEW_PREDICTED = 0.9  # share of the key frames with ground truth; a detector leaves some without a row


def score(prepared: Prepared, *, capacity_from: Choice | None = None, tie_bounds: bool = True) -> Evaluation:
    """Return mAP at the capacities of the protocol.

    capacity_from: report at this capacity instead of at the best of the sweep. tie_bounds: also bound mAP over the
    orders of equal scores.
    """
    protocol, alignment, matching = prepared.protocol, prepared.alignment, prepared.matching
    wanted = parse_capacities(protocol.capacities)
    beside = (_AVA_CAPACITY, capacity_from.capacity if capacity_from else _AVA_CAPACITY)
    if protocol.claim_order == "score":
        curve = _curve(alignment, matching, (*wanted, *beside), protocol, tie_bounds)
        at_50, reported = curve.part(slice(-2, -1)), curve.part(slice(-1, None))
        curve = curve.part(slice(-2))
    else:
        # Which row has a box depends on the rows that are kept, so each capacity is a pass of its own.
        curve = _curve(alignment, matching, wanted, protocol, tie_bounds)
        at_50, reported = (_curve_at(prepared, capacity) for capacity in beside)
    borrowed = [] if capacity_from is None else _choice_warnings(capacity_from, protocol)
    if capacity_from is None:
        index = int(curve.mean_ap_C.argmax())
        reported = curve.part(slice(index, index + 1))
        capacity_from = Choice(
            capacity=wanted[index], split=prepared.split if len(wanted) > 1 else None, protocol=protocol.describe()
        )
    findings = diagnose(prepared, float(curve.mean_ap_C.max()))
    return Evaluation(
        curve=curve,
        at_50=at_50,
        reported=reported,
        choice=capacity_from,
        split=prepared.split,
        label_map=prepared.label_map,
        protocol=protocol,
        truth_count_K=matching.truth_count_K,
        prediction_count_K=np.diff(matching.class_offsets),
        counts=alignment.counts,
        tied_rows=count_tied_rows(matching, alignment.predictions),
        digests=prepared.digests,
        details=explain(prepared, capacity_from.capacity, reported.ap_CK[0]),
        findings=findings,
        warnings=(*map(str, findings), *_warnings(alignment.counts, protocol), *borrowed, *_tie_warnings(curve)),
    )


def _curve(
    alignment: Alignment, matching: Matching, capacities: Sequence[int], protocol: Protocol, tie_bounds: bool
) -> Curve:
    rows = alignment.predictions
    columns = plan_columns(capacities, alignment.counts.rows_of_longest_key_frame)
    ties = bound_ties(matching, rows, alignment.num_keys, columns) if tie_bounds else None
    ap_CK = sweep(matching, columns)
    if protocol.classes == "with_ground_truth_and_predictions":
        absent_K = np.diff(matching.class_offsets) == 0
        ap_CK = _without(ap_CK, absent_K)
        ties = ties and TieBounds(
            lower_CK=_without(ties.lower_CK, absent_K),
            upper_CK=_without(ties.upper_CK, absent_K),
            cut_key_frames_C=ties.cut_key_frames_C,
        )
    return Curve(capacities=tuple(capacities), ap_CK=ap_CK, ties=ties)


def _without(ap_CK: NDArray[np.float64], absent_K: NDArray[np.bool_]) -> NDArray[np.float64]:
    return np.where(absent_K, np.nan, ap_CK)


def _curve_at(prepared: Prepared, capacity: int) -> Curve:
    """Return AP at one capacity from the rows that it keeps; without tie bounds."""
    kept = keep(prepared.matching, capacity)
    curve = _curve(prepared.alignment, kept, (NO_LIMIT,), prepared.protocol, tie_bounds=False)
    return replace(curve, capacities=(capacity,))


def _warnings(counts: Counts, protocol: Protocol) -> list[str]:
    warnings = []
    if counts.prediction_rows == 0:
        warnings.append("The predictions hold no row, so mAP is 0.")
    elif counts.scored_prediction_rows == 0:
        warnings.append(
            "No prediction row is left after exclusions, label map and the protocol's other rules, so mAP is 0."
        )
    annotated = counts.key_frames_with_ground_truth
    if 0 < counts.key_frames_with_both < _FEW_PREDICTED * annotated:
        warnings.append(
            f"{annotated - counts.key_frames_with_both} of {annotated} key frames with ground truth have no "
            "prediction: check that the predictions file is complete."
        )
    if counts.listed_exclusions and protocol.exclusions == "ignored":
        warnings.append(
            f"The protocol {protocol.name} ignores exclusions, so the {counts.listed_exclusions} given do not count."
        )
    elif counts.listed_exclusions and counts.excluded_key_frames == 0:
        warnings.append(
            f"None of the {counts.listed_exclusions} excluded key frames occurs in ground truth or predictions: check "
            "that both spell video ids and seconds alike."
        )
    if counts.repeated_ground_truth_rows:
        warnings.append(
            f"{counts.repeated_ground_truth_rows} ground-truth rows repeat the key frame, box and class of an earlier "
            "one, so no prediction can find them: remove them."
        )
    if counts.ground_truth_rows_outside_label_map:
        warnings.append(
            f"{counts.ground_truth_rows_outside_label_map} ground-truth rows have labels outside the label map and do "
            "not count."
        )
    return warnings


def _choice_warnings(choice: Choice, protocol: Protocol) -> list[str]:
    differing = choice.differing_fields(protocol.describe())
    if not differing:
        return []
    return [f"capacity-from: the capacity {choice.capacity} was chosen by other rules: {', '.join(differing)}."]


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
