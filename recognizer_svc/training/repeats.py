"""Repeat-factor sampling: clips with rare classes are drawn more than once an epoch (Gupta et al. 2019, LVIS).

K clips, C classes.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from recognizer_svc.data import LabelledKeyFrame
from recognizer_svc.training.seeds import seed_of


def repeat_factors(clips: Sequence[LabelledKeyFrame], threshold: float | None) -> NDArray[np.float64]:
    """Return how often each clip is to be drawn in an epoch, on average, [K]; 1 each without a threshold.

    A class in a share f of the clips asks for max(1, sqrt(threshold / f)); the most that a clip's classes ask for
    counts.
    """
    present_KC = np.stack([clip.targets_NC.any(axis=0) for clip in clips])
    if threshold is None:
        return np.ones(len(clips))
    share_C = present_KC.mean(axis=0)
    factor_C = np.sqrt(np.maximum(1, threshold / np.maximum(share_C, 1 / len(clips))))
    factors_K: NDArray[np.float64] = np.where(present_KC, factor_C, 1.0).max(axis=1)
    return factors_K


def clips_per_epoch(factors_K: NDArray[np.float64]) -> int:
    """Return the sum of the factors, rounded up, so that every clip is drawn at least once."""
    return int(np.ceil(factors_K.sum()))


def drawn_clips(factors_K: NDArray[np.float64], *, seed: int, epoch: int) -> NDArray[np.int64]:
    """Return the clips of an epoch, `clips_per_epoch` of them; clip k's n-th repetition, from 0, is k + n * K.

    Each is drawn about as often as its factor says on average, and always its factor rounded down or up (systematic
    sampling, in an order of its own each epoch).
    """
    random = np.random.default_rng(seed_of(seed, "repeats", epoch))
    order_K = random.permutation(len(factors_K))
    ends_K = np.cumsum(factors_K[order_K])
    ends_K *= clips_per_epoch(factors_K) / ends_K[-1]
    ends_K[-1] = clips_per_epoch(factors_K)
    offset = random.integers(1 << 20) / (1 << 20)  # of few bits, so that adding it to a whole number is exact
    counts_K = np.empty(len(factors_K), np.int64)
    counts_K[order_K] = np.diff(np.floor(ends_K + offset), prepend=0)
    return np.concatenate([np.flatnonzero(counts_K > n) + n * len(factors_K) for n in range(counts_K.max())])
