"""Why an mAP is close to 0: tries the usual mistakes one by one, names the one that explains it, and how to mend it."""

from dataclasses import dataclass, replace

import numpy as np

from stal_eval.alignment import Alignment, count_repeated, select_rows
from stal_eval.box_findings import box_pairs, check_boxes, recall_of_boxes
from stal_eval.capacities import NO_LIMIT
from stal_eval.curve import mean_over_classes
from stal_eval.finding import Finding
from stal_eval.key_findings import check_keys
from stal_eval.matching import match
from stal_eval.preparation import Prepared
from stal_eval.sweep import plan_columns, sweep

_LOW = 0.5  # mAP below which a mistake is looked for
_KEY_FRAMES_TRIED = 100
_REPEATED = 0.1  # share of prediction rows that say the same as another, from which they are worth a word
_NEAR_ZERO = 0.01  # mAP below which something is said even when no mistake is found
_SHIFT_GAIN = 0.05  # of mAP, which a shift of the labels must bring beside doubling it
_FOUND = 0.3  # share of ground-truth boxes with a predicted box, from which the boxes are not what is wrong


@dataclass(frozen=True)
class _Shift:
    labels: int
    mean_ap: float


def diagnose(prepared: Prepared, mean_ap: float) -> tuple[Finding, ...]:
    """Return likely causes of a low mAP; nothing when it is not low, or when there is no row to look at."""
    alignment = prepared.alignment
    if mean_ap >= _LOW or alignment.predictions.num_rows == 0:
        return ()
    findings = check_keys(alignment)
    if alignment.counts.key_frames_with_both == 0:
        return findings
    sample = replace(prepared, alignment=_sample(alignment))
    pairs, min_iou = box_pairs(sample.alignment), prepared.protocol.iou
    findings += (*check_boxes(sample.alignment, pairs, min_iou), *_check_labels(sample))
    if not findings and mean_ap >= _NEAR_ZERO:
        findings = _check_repeated(sample.alignment)
    elif not findings:
        findings = (_nothing_found(recall_of_boxes(pairs, min_iou), mean_ap, min_iou),)
    return findings


def _sample(alignment: Alignment) -> Alignment:
    """Return the rows of some key frames that have both predictions and ground truth, spread over all of them."""
    sides = (alignment.predictions, alignment.ground_truth)
    in_predictions, in_truth = (np.bincount(rows.key_N, minlength=alignment.num_keys) > 0 for rows in sides)
    both = np.flatnonzero(in_predictions & in_truth)
    chosen = np.zeros(alignment.num_keys, np.bool_)
    chosen[both[np.linspace(0, len(both) - 1, min(len(both), _KEY_FRAMES_TRIED)).astype(np.int64)]] = True
    predictions, truth = (select_rows(rows, chosen[rows.key_N]) for rows in sides)
    return replace(alignment, predictions=predictions, ground_truth=truth)


def _check_repeated(alignment: Alignment) -> tuple[Finding, ...]:
    """Look for rows with the key frame, box and class of another: of those at most one can be right."""
    rows = alignment.predictions
    share = count_repeated(rows) / rows.num_rows
    if share < _REPEATED:
        return ()
    return (
        Finding(
            cause="repeated_rows",
            evidence=f"{100 * share:.0f} % of the prediction rows on some key frames repeat the box and class of "
            "another, so they are wrong.",
            fix="Write each row once: check whether several runs or processes wrote into the file. "
            "The row layout repeats boxes on purpose.",
        ),
    )


def _check_labels(prepared: Prepared) -> tuple[Finding, ...]:
    """Shift the predicted labels by one either way."""
    as_given = _mean_ap(prepared, 0)
    best = max((_Shift(labels, _mean_ap(prepared, labels)) for labels in (1, -1)), key=lambda shift: shift.mean_ap)
    if best.mean_ap < max(2 * as_given, as_given + _SHIFT_GAIN):
        return ()
    action = "Add 1 to" if best.labels > 0 else "Subtract 1 from"
    return (
        Finding(
            cause="label_offset",
            evidence=f"With the predicted label ids {'raised' if best.labels > 0 else 'lowered'} by one, mAP without a "
            f"capacity would be {100 * best.mean_ap:.1f} instead of {100 * as_given:.1f} on some key frames.",
            fix=f"{action} the label ids of the predictions, or score with the label map they were made with: ids "
            "start at 1.",
        ),
    )


def _mean_ap(prepared: Prepared, shift: int) -> float:
    ids = prepared.label_map.ids
    new_index = np.array([ids.index(label + shift) if label + shift in ids else -1 for label in ids], np.int32)
    rows = prepared.alignment.predictions
    class_N = new_index[rows.class_N]
    kept_N = class_N >= 0
    shifted = select_rows(replace(rows, class_N=class_N), kept_N)
    alignment = replace(prepared.alignment, predictions=shifted)
    matching = match(alignment, len(ids), replace(prepared.protocol, cut_ties="file_order"))
    columns = plan_columns((NO_LIMIT,), alignment.counts.rows_of_longest_key_frame)
    return float(mean_over_classes(sweep(matching, columns))[0])


def _nothing_found(recall: float, mean_ap: float, min_iou: float) -> Finding:
    evidence = (
        f"mAP is {100 * mean_ap:.2f}; key frames, box order and label ids look right; {100 * recall:.0f} % of the "
        f"ground-truth boxes have a predicted box with IoU {min_iou} in their key frame."
    )
    if recall < _FOUND:
        return Finding(
            cause="people_not_found",
            evidence=evidence,
            fix="People are not found: look at the detector and at the boxes on some frames.",
        )
    return Finding(
        cause="actions_wrong",
        evidence=evidence,
        fix="People are found and the action scores are wrong: check that the predictions were made with this label "
        "map's order of classes, and that the model was trained.",
    )
