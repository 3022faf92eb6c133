"""The order in which an evaluator with `tie_order` meets the rows: key frame by key frame, then class by class.

Such an evaluator gives boxes to rows within each key frame, strings the rows of a class together, key frames in the
order of a file, and sorts them by ascending score from the end. So the row of equal scores that has a box tends to rank
behind those that came too late for it.
"""

import numpy as np
from numpy.typing import NDArray

from stal_eval.alignment import Alignment, Rows
from stal_eval.extra import pd
from stal_eval.protocol import Protocol

# A stable sort of integers up to this number is a radix sort, several times faster than that of floats.
_SMALL = 2**16
_SAMPLED = 4096  # scores looked at to tell whether most are equal to others


def place_key_frames(alignment: Alignment, protocol: Protocol) -> NDArray[np.int64]:
    """Return for each key frame its place in the order of their first rows that count; those without any come last."""
    ordered = alignment.ground_truth if protocol.frames == "with_ground_truth" else alignment.predictions
    place_K = np.full(alignment.num_keys, alignment.num_keys, np.int64)
    keys = pd.unique(ordered.key_N)
    place_K[keys] = np.arange(len(keys))
    return place_K


def string_together(rows: Rows, place_K: NDArray[np.int64], order_N: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return row numbers key frame by key frame, each key frame's in the order that they have in order_N."""
    place_N = place_K[rows.key_N[order_N]]
    return order_N[np.argsort(place_N.astype(np.min_scalar_type(len(place_K))), kind="stable")]


def descending(score_N: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return row numbers, the highest score first, equal scores in file order."""
    sample = score_N[:: 1 + len(score_N) // _SAMPLED]
    if 2 * len(np.unique(sample)) <= len(sample):
        codes_N, values = pd.factorize(score_N)
        if len(values) <= _SMALL:
            place_V = np.empty(len(values), np.uint16)
            place_V[np.argsort(-values)] = np.arange(len(values))
            return np.argsort(place_V[codes_N], kind="stable")
    return np.argsort(-score_N, kind="stable")


def group_offsets(group_N: NDArray[np.integer], num_groups: int) -> NDArray[np.int64]:
    """Return where each group starts once the rows are sorted by group, and the end."""
    offsets = np.zeros(num_groups + 1, np.int64)
    np.cumsum(np.bincount(group_N, minlength=num_groups), out=offsets[1:])
    return offsets
