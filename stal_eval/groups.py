"""mAP of groups: of classes, by the type in the label map, and of boxes, by their size."""

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stal_data.boxes import BOX_SIZES, box_sizes
from stal_data.labels import LabelMap
from stal_eval.alignment import Alignment
from stal_eval.matching import Matching
from stal_eval.protocol import Protocol
from stal_eval.sweep import average_precision

NO_TYPE = "(no label_type)"


def by_label_type(label_map: LabelMap, ap_K: NDArray[np.float64], truth_count_K: NDArray[np.int64]) -> dict[str, Any]:
    """Return the mean AP of each label_type; ap_K: NaN for a class that is not in the mean."""
    types = np.array([kind or NO_TYPE for kind in label_map.types])
    return {str(kind): _group(ap_K[types == kind], truth_count_K[types == kind]) for kind in dict.fromkeys(types)}


def by_box_size(alignment: Alignment, selection: Matching, protocol: Protocol) -> dict[str, Any]:
    """Return mAP of each size of box. selection: the rows that a capacity keeps.

    A row belongs to the size of the ground-truth box that it finds (right or too late), else to its own size.
    """
    size_G = box_sizes(alignment.ground_truth.boxes_N4)[selection.targets]
    size_N = box_sizes(alignment.predictions.boxes_N4)[selection.row_N]
    size_N = np.where(selection.target_N >= 0, size_G[selection.target_N], size_N)
    groups = {}
    for size, name in enumerate(BOX_SIZES):
        truth_count_K = np.zeros_like(selection.truth_count_K)
        for rows in (alignment.ground_truth, alignment.recalled_truth):
            np.add.at(truth_count_K, rows.class_N[box_sizes(rows.boxes_N4) == size], 1)
        part = replace(selection, void_N=selection.void_N | (size_N != size), truth_count_K=truth_count_K)
        groups[name] = _group(average_precision(part, protocol), truth_count_K)
    return groups


def _group(ap_K: NDArray[np.float64], truth_count_K: NDArray[np.int64]) -> dict[str, Any]:
    scored = ap_K[~np.isnan(ap_K)]
    mean_ap = float(scored.mean()) if len(scored) else None
    return {"mAP": mean_ap, "classes": len(scored), "ground_truth": int(truth_count_K.sum())}
