"""How far the rows of one spec may lie apart where threads, batches or processors differ: by the order of sums."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cache.feature_store.layout import FeatureBatch
from cache.spec import FeatureSpec

ROUNDING = 1e-5
"""Of the largest magnitude in an array of the row; measured: 2e-6 at most. A float16 value may be one step further."""


def has_bound(spec: FeatureSpec) -> bool:
    """Whether the bound holds for features of the spec: autocast rounds inside the network, by far more."""
    return spec.autocast == "none"


def within_rounding(a: FeatureBatch, b: FeatureBatch) -> bool:
    """Whether two rows, read as batches of one, are the same up to the order of sums."""
    return all(_close(values, b[name]) for name, values in a.items())


def _close(a: NDArray[Any], b: NDArray[Any]) -> bool:
    if a.dtype == np.int8:  # whose scales may be a step apart
        return bool((np.abs(a.astype(np.int16) - b) <= 1).all())
    wide_a, wide_b = a.astype(np.float32), b.astype(np.float32)
    largest = np.maximum(np.abs(a), np.abs(b))
    step = np.spacing(largest).astype(np.float32) if a.dtype == np.float16 else np.float32(0)
    return bool((np.abs(wide_a - wide_b) <= ROUNDING * np.float32(largest.max()) + step).all())
