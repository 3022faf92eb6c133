"""Rounding to decimals exactly as writing with %.3f and reading again does."""

import numpy as np
from numpy.typing import NDArray

MAX_DECIMALS = 6
_LARGE = 1e3
_NEAR_HALF = 1e-6  # in units of the last decimal; above the error of scaling a number below _LARGE by 10**MAX_DECIMALS


def round_decimals(values: NDArray[np.float64], decimals: int | None) -> NDArray[np.float64]:
    """Round to the nearest decimal of the exact binary value; None leaves the values alone.

    np.round scales first, which turns 0.0005 (just above a half) into an exact half: such few, and large values, go
    through text.
    """
    if decimals is None:
        return values
    size = np.abs(values)
    scaled = np.minimum(size, _LARGE) * 10.0**decimals
    doubtful = (np.abs(scaled - np.floor(scaled) - 0.5) < _NEAR_HALF) | (size >= _LARGE)
    rounded = np.asarray(np.round(np.where(doubtful, 0.0, values), decimals), np.float64)
    rounded[doubtful] = [float(f"{value:.{decimals}f}") for value in values[doubtful].tolist()]
    return rounded
