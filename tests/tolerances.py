"""How far each stage may be from the published code's numbers, and why.

Measured differences stand in docs/numerics.md; `pytest -s` prints them.

Float32 keeps 24 bits (6e-8 relative). Ours and the published code add the same terms in another order, so sums of n
terms differ by up to n roundings, in practice by about sqrt(n). A mistake of method (a swapped axis, another padding,
a missing bias) moves numbers by percents, so each tolerance lies between: far above rounding on any CPU, far below a
mistake.
"""

import numpy as np
from numpy.typing import ArrayLike

FEATURES = 1e-4
"""Of the largest value. Dozens of layers, each with sums of up to 6144 terms, let roundings grow to about 1e-5."""

LOGITS = 1e-4
"""Of the largest value. Nine layers, sums of up to 12 672 terms, and softmaxes over actors in between."""

LOSS = 1e-5
"""Relative. A mean over hundreds of probabilities, in which differences of either sign cancel."""

GRADIENT_NORMS = 1e-3
"""Relative. Backward passes add over all positions and clips; and torch's float32 norm of 17 million values is
off by up to 8e-4 itself."""

LEARNING_RATES = 1e-9
"""Absolute. A formula in float64 on both sides; the smallest rate is 6e-4."""

MEAN_AP = 1e-9
"""Absolute. Hits are counted in whole numbers, so only sums in float64 differ, by 1e-16 a row."""

FLOAT16_STORE = 2**-11
"""Of the largest logit: what float16 may do to one value. Errors of single features are independent, and a logit adds
up thousands of them, so they largely cancel."""

FLOAT64 = 1e-9
"""Of a loss, over many steps of training. Exact shortcuts differ by rounding alone, 1e-16 a step, which training
multiplies; wrong statistics differ by 1e-3 and more."""

TWO_RANKS = 1e-11
"""Absolute, in float64, of numbers around 1. The ranks' sums are added in another order, 1e-16 each, over a few steps;
statistics of each rank's own clips differ by 1e-4 and more."""

AUTOCAST = 0.02
"""Of the largest logit; gradients, which have gone through twice as many layers, get four times as much. bfloat16 keeps
8 bits, so each value is off by up to 4e-3; a mistake of method moves logits by tenths."""

TWO_RANKS_BFLOAT16 = 0.1
"""Norm of the difference, of the norm of what two epochs change in the weights. Each rank rounds gradients of its own
clips, and the steps multiply that: 0.03 were measured, and 0.1 from float32 to bfloat16 on one rank. Statistics of each
rank's own clips change more."""


def check(stage: str, difference: float, tolerance: float) -> None:
    """Assert, and say what was measured."""
    print(f"\n{stage}: {difference:.1e}, tolerance {tolerance:.0e}")
    assert difference <= tolerance, stage


def of_the_largest(found: ArrayLike, expected: ArrayLike) -> float:
    """Largest difference of two arrays of one shape, as a fraction of the largest expected value."""
    found, expected = np.asarray(found), np.asarray(expected)
    assert found.shape == expected.shape
    return float(np.abs(found - expected).max() / np.abs(expected).max())
