"""Figures that are computed only when somebody asks for them."""

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stal_eval.confusion import confusion_of
from stal_eval.groups import by_box_size, by_label_type
from stal_eval.ious import by_iou, parse_ious
from stal_eval.matching import match
from stal_eval.preparation import Prepared
from stal_eval.requested import Requested
from stal_eval.segment_f1 import evaluate_segments
from stal_eval.selection import select
from stal_eval.sweep import average_precision
from stal_eval.tubes.video_map import video_map


def optional_figures(
    prepared: Prepared, requested: Requested, capacity: int, ap_K: NDArray[np.float64]
) -> dict[str, Any]:
    """Return the entries of metrics.json. capacity: the reported one. ap_K: AP of each class there."""
    alignment, protocol, labels = prepared.alignment, prepared.protocol, prepared.label_map
    selection = select(alignment, prepared.matching, protocol, capacity)
    entries: dict[str, Any] = {}
    ious = parse_ious(requested.ious)
    if set(ious) - {protocol.iou}:  # the headline's own, alone, says nothing new
        ap_IK = []
        for iou in ious:
            rules = replace(protocol, iou=iou)
            matching = match(alignment, labels.num_classes, rules)
            ap_IK.append(average_precision(select(alignment, matching, rules, capacity), rules))
        entries["by_iou"] = by_iou(ious, np.array(ap_IK), labels.names)
    if requested.groups:
        entries["by_label_type"] = by_label_type(labels, ap_K, selection.truth_count_K)
        entries["by_box_size"] = by_box_size(alignment, selection, protocol)
    if requested.confusion:
        entries["confusion"] = confusion_of(alignment, selection, labels.names, protocol.iou)
    if requested.tubes is not None:
        entries["video_mAP"] = video_map(alignment, labels, requested.tubes)
    if requested.segments is not None:
        entries["segment_f1"] = evaluate_segments(*requested.segments)
    return entries
