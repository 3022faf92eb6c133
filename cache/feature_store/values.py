"""Features on their way into the store: every value must be finite and fit the stored type."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stal_data.errors import InputError
from stal_data.keyframes import KeyFrame


def checked_cast(name: str, values: NDArray[Any], dtype: np.dtype[Any], keys: Sequence[KeyFrame]) -> NDArray[Any]:
    """Return `values` [B, ...] as `dtype`, C-contiguous; a value that is not finite or does not fit is an error.

    keys: the B key frames, for the message.
    """
    if dtype == np.int8:  # whose scales say whether it is finite
        if values.dtype != dtype:
            raise InputError(f"Array '{name}' is {values.dtype}; int8 is written with its scales, see `quantise`.")
        return np.ascontiguousarray(values)
    _refuse_first(name, values, np.isfinite(values), keys, "the backbone's output must be finite: check its weights")
    with np.errstate(over="ignore"):
        cast = np.ascontiguousarray(values, dtype=dtype)
    limit = f"it does not fit {dtype.name} (at most {np.finfo(dtype).max:g}): store this set with --dtype float32"
    _refuse_first(name, values, np.isfinite(cast), keys, limit)
    return cast


def _refuse_first(
    name: str, values: NDArray[np.float32], good: NDArray[np.bool_], keys: Sequence[KeyFrame], rule: str
) -> None:
    if good.all():
        return
    place = np.unravel_index(int(np.argmin(good)), good.shape)
    # The channel is the second axis of maps [B,C,H,W] and the last one of moments [B,2,C].
    channel = place[1] if values.ndim > 3 else place[-1]
    raise InputError(
        f"Array '{name}', channel {channel} of key frame {keys[int(place[0])]} is {values[place]:g}; {rule}."
    )
