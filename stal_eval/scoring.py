"""From matched rows to an Evaluation: average precision at every capacity, in one pass."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from stal_data.amounts import amount
from stal_eval.alignment import Counts
from stal_eval.capacities import NO_LIMIT, parse_capacities
from stal_eval.chosen_capacity import Choice
from stal_eval.curve import Curve, TieBounds
from stal_eval.details import explain
from stal_eval.diagnosis import diagnose
from stal_eval.matching import Matching
from stal_eval.optional_figures import optional_figures
from stal_eval.preparation import Prepared
from stal_eval.protocol import Protocol
from stal_eval.requested import Requested
from stal_eval.result import Best, Evaluation
from stal_eval.selection import select
from stal_eval.sweep import average_precision, plan_columns, sweep, without_absent
from stal_eval.ties import bound_ties, count_tied_rows

_AVA_CAPACITY = 50
_WIDE_BOUNDS = 0.001  # a tenth of a point of mAP
_MAX_PASSES = 16  # capacities up to which each has a pass of its own under the protocols that need one
_FEW_PREDICTED = 0.9  # share of the key frames with ground truth; a detector leaves some without a row


def score(
    prepared: Prepared,
    *,
    capacity_from: Choice | None = None,
    tie_bounds: bool = True,
    exact: bool = False,
    requested: Requested | None = None,
    progress: Callable[[int, int], object] | None = None,
) -> Evaluation:
    """Return mAP at the capacities of the protocol; the arguments are those of `evaluate`.

    progress: told how many capacities of how many are done, where each has a pass of its own.
    """
    protocol, counts = prepared.protocol, prepared.alignment.counts
    wanted = parse_capacities(protocol.capacities)
    beside = (_AVA_CAPACITY, capacity_from.capacity if capacity_from else _AVA_CAPACITY)
    swept = _curve(prepared, prepared.matching, (*wanted, *beside), tie_bounds)
    is_exact = exact or protocol.keeps_prefixes or len(wanted) <= _MAX_PASSES
    swept = _exactly(prepared, swept, swept.capacities if is_exact else beside, progress)
    index = int(swept.mean_ap_C[:-2].argmax())
    if not is_exact:
        swept = _exactly(prepared, swept, wanted[index : index + 1])
    places = (slice(-2), slice(index, index + 1), slice(-2, -1), slice(-1, None))
    curve, best, at_50, reported = (_with_valid_bounds(swept.part(place), protocol) for place in places)
    borrowed = [] if capacity_from is None else _choice_warnings(capacity_from, protocol)
    if capacity_from is None:
        reported = best
    choice = capacity_from or Choice(
        capacity=wanted[index], split=prepared.split if len(wanted) > 1 else None, protocol=protocol.describe()
    )
    findings = diagnose(prepared, float(best.mean_ap_C[0]))
    return Evaluation(
        curve=curve,
        curve_is_exact=is_exact,
        best=Best(capacity=wanted[index], mean_ap=float(best.mean_ap_C[0])),
        at_50=at_50,
        reported=reported,
        choice=choice,
        split=prepared.split,
        label_map=prepared.label_map,
        protocol=protocol,
        truth_count_K=prepared.matching.truth_count_K,
        prediction_count_K=np.diff(prepared.matching.class_offsets),
        counts=counts,
        tied_rows=count_tied_rows(prepared.matching, prepared.alignment.predictions),
        digests=prepared.digests,
        details=explain(prepared, choice.capacity, reported.ap_CK[0]),
        optional={} if requested is None else optional_figures(prepared, requested, choice.capacity, reported.ap_CK[0]),
        findings=findings,
        warnings=(*map(str, findings), *_warnings(counts, protocol), *borrowed, *_tie_warnings(curve, protocol)),
    )


def _curve(prepared: Prepared, matching: Matching, capacities: Sequence[int], tie_bounds: bool) -> Curve:
    alignment, protocol = prepared.alignment, prepared.protocol
    rows = alignment.predictions
    columns = plan_columns(capacities, alignment.counts.rows_of_longest_key_frame)
    ties = None
    if tie_bounds:
        ties = bound_ties(matching, rows, alignment.num_keys, columns, first_has_box=protocol.keeps_prefixes)
    ties = ties and TieBounds(
        lower_CK=without_absent(ties.lower_CK, matching, protocol),
        upper_CK=without_absent(ties.upper_CK, matching, protocol),
        cut_key_frames_C=ties.cut_key_frames_C,
    )
    ap_CK = without_absent(sweep(matching, columns), matching, protocol)
    return Curve(capacities=tuple(capacities), ap_CK=ap_CK, ties=ties)


def _exactly(
    prepared: Prepared,
    curve: Curve,
    capacities: Sequence[int],
    progress: Callable[[int, int], object] | None = None,
) -> Curve:
    """Return the curve with what the protocol computes at some capacities of it, to which the sweep only comes near."""
    protocol = prepared.protocol
    if protocol.keeps_prefixes:
        return curve
    alignment = prepared.alignment
    columns = plan_columns(curve.capacities, alignment.counts.rows_of_longest_key_frame)
    exact = sorted({int(columns.column_of[curve.capacities.index(capacity)]) for capacity in capacities})
    ap_CK = curve.ap_CK.copy()
    for done, column in enumerate(exact, start=1):
        selected = select(alignment, prepared.matching, protocol, int(columns.capacities[column]))
        ap_CK[columns.column_of == column] = average_precision(selected, protocol)
        if progress is not None:
            progress(done, len(exact))
    return replace(curve, ap_CK=ap_CK)


def _with_valid_bounds(curve: Curve, protocol: Protocol) -> Curve:
    """A capacity may give a box to another row, with another score, so bounds hold where every row is kept."""
    return curve if protocol.match_order == "score" or curve.capacities == (NO_LIMIT,) else replace(curve, ties=None)


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
            f"{annotated - counts.key_frames_with_both} of {amount(annotated, 'key frame')} with ground truth, but "
            "without a prediction: check that the predictions file is complete."
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
            f"{amount(counts.repeated_ground_truth_rows, 'ground-truth row')} with the key frame, box and class of an "
            "earlier one. No prediction can find such rows, but they count in the recall, in other evaluators too: "
            "leave them in a published file, so that figures can be compared; remove them from your own."
        )
    if counts.ground_truth_rows_outside_label_map:
        warnings.append(
            f"Not counted: {amount(counts.ground_truth_rows_outside_label_map, 'ground-truth row')} with labels "
            "outside the label map."
        )
    return warnings


def _choice_warnings(choice: Choice, protocol: Protocol) -> list[str]:
    differing = choice.differing_fields(protocol.describe())
    if not differing:
        return []
    return [f"capacity-from: the capacity {choice.capacity} was chosen by other rules: {', '.join(differing)}."]


def _tie_warnings(curve: Curve, protocol: Protocol) -> list[str]:
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
        f"{100 * bounds[1][widest]:.2f}, by the order of equal scores alone."
        + (" Write scores with full precision." if protocol.score_decimals is None else "")
    ]
