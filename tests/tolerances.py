"""How far each stage may be from the published code's numbers, and why. Measured differences: docs/numerics.md.

Float32 keeps 24 bits (6e-8 relative). Ours and the published code add the same terms in another order, so sums of n
terms differ by up to n roundings, in practice by about sqrt(n). A mistake of method (a swapped axis, another padding,
a missing bias) moves numbers by percents, so each tolerance lies between: far above rounding on any CPU, far below a
mistake.
"""

FEATURES = 1e-4
"""Of the largest value. Dozens of layers, each with sums of up to 6144 terms, let roundings grow to about 1e-5."""

LOGITS = 1e-4
"""Of the largest value. Nine layers, sums of up to 12 672 terms, and softmaxes over actors in between."""

LOSS = 1e-5
"""Relative. A mean over hundreds of probabilities, in which differences of either sign cancel."""

GRADIENT_NORMS = 1e-3
"""Relative. The published norms were summed in float32, and 17 million squares in float32 are off by that much."""

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
