"""What is kept of a backbone's map: its statistics, each stored as one array.

B clips, C channels, T, H, W steps, rows and columns of the map. Importing this needs no torch.
"""

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, cast, get_args

import numpy as np
from numpy.typing import NDArray

from stal_data.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

StatisticName: TypeAlias = str
"""Of `STATISTICS`, or one of them pooled over space: `slope/2x2`."""
ArrayDtype = Literal["float16", "float32", "int8"]
MapShape = tuple[int, int, int, int]
"""Channels, time steps, rows and columns of a map."""


@dataclass(frozen=True, kw_only=True)
class Statistic:
    """compute: takes the map [B,C,T,H,W], returns float32. row_shape: of one clip's array.

    suffix: of the array's name, after the map's. always_float32: whatever type the maps are stored in.
    """

    compute: "Callable[[Tensor], Tensor]"
    row_shape: Callable[[MapShape], tuple[int, ...]]
    suffix: str = ""
    always_float32: bool = False


def time_mean(map_BCTHW: "Tensor") -> "Tensor":
    """Return the mean over time, [B,C,H,W] float32."""
    return map_BCTHW.float().mean(dim=2)


def time_slope(map_BCTHW: "Tensor") -> "Tensor":
    """Return the first moment over time, [B,C,H,W] float32: what the later steps have more of than the earlier ones.

    sum over t of (t - centre) x_t, divided by the sum of |t - centre|; 0 for a map of one step.
    """
    import torch

    steps = map_BCTHW.shape[2]
    weight_T = torch.arange(steps, device=map_BCTHW.device, dtype=torch.float32) - (steps - 1) / 2
    weight_T /= weight_T.abs().sum().clamp_min(1)
    return torch.einsum("bcthw,t->bchw", map_BCTHW.float(), weight_T)


def map_moments(map_BCTHW: "Tensor") -> "Tensor":
    """Return mean and mean square of each channel over T,H,W, [B,2,C] float32.

    A head's BatchNorm needs them: from the time mean alone the variance is lost.
    """
    import torch

    map_BCTHW = map_BCTHW.float()
    return torch.stack([map_BCTHW.mean(dim=(2, 3, 4)), map_BCTHW.square().mean(dim=(2, 3, 4))], dim=1)


STATISTICS: dict[str, Statistic] = {
    "mean": Statistic(compute=time_mean, row_shape=lambda shape: (shape[0], *shape[2:])),
    "max": Statistic(
        compute=lambda map_BCTHW: map_BCTHW.float().amax(dim=2),
        row_shape=lambda shape: (shape[0], *shape[2:]),
        suffix="_max",
    ),
    "slope": Statistic(compute=time_slope, row_shape=lambda shape: (shape[0], *shape[2:]), suffix="_slope"),
    "moments": Statistic(
        compute=map_moments, row_shape=lambda shape: (2, shape[0]), suffix="_moments", always_float32=True
    ),
    # Every time step: in place of the mean, which readers take from it as they do the others.
    "full": Statistic(compute=lambda map_BCTHW: map_BCTHW.float(), row_shape=lambda shape: shape),
}

SCALE = "_scale"
"""After the name of an int8 array: the array of its scales, float16."""
INT8_MAX = 127
_WORD = re.compile("([a-z]+)(?:/([1-9][0-9]?)x([1-9][0-9]?))?")


@cache
def statistic_of(name: StatisticName) -> Statistic:
    """Return the statistic of a name such as `slope`, or `slope/2x2` for its mean over blocks of 2 rows x 2 columns.

    The coarser grid covers the frame: where rows or columns are no multiple, the blocks are those of PyTorch's adaptive
    average pooling, which overlap. InputError for a name that stands for nothing.
    """
    match = _WORD.fullmatch(name)
    base = STATISTICS.get(match[1]) if match else None
    if match is None or base is None:
        raise InputError(f"is '{name}'; it must be one of {', '.join(STATISTICS)}, pooled as in 'slope/2x2' or not")
    if match[2] is None:
        return base
    rows, columns = int(match[2]), int(match[3])
    if base.always_float32 or match[1] == "full" or rows * columns == 1:
        raise InputError(f"is '{name}'; mean, max and slope can be pooled, over blocks of at least 1x2 or 2x1 cells")
    return Statistic(
        compute=lambda map_BCTHW: _pooled(base.compute(map_BCTHW), rows, columns),
        row_shape=lambda shape: (shape[0], -(-shape[2] // rows), -(-shape[3] // columns)),
        suffix=f"{base.suffix}_{rows}x{columns}",
    )


def split_word(word: str) -> tuple[StatisticName, ArrayDtype | None]:
    """Return what `slope/2x2/int8` or `slope` stands for: the statistic, and its stored type or None for the set's."""
    name, _, dtype = word.rpartition("/")
    if dtype not in get_args(ArrayDtype):
        statistic_of(word)
        return word, None
    if statistic_of(name).always_float32:
        raise InputError(f"is '{word}'; {name} are always float32: leave the type out")
    return name, cast(ArrayDtype, dtype)


def _pooled(values_BCHW: "Tensor", rows: int, columns: int) -> "Tensor":
    from torch.nn.functional import adaptive_avg_pool2d

    height, width = values_BCHW.shape[2:]
    # In an ONNX file sizes are divided towards zero, so nothing may be negative.
    return adaptive_avg_pool2d(values_BCHW, ((height + rows - 1) // rows, (width + columns - 1) // columns))


def quantise(values_BCX: "Tensor") -> "tuple[Tensor, Tensor]":
    """Return int8 values and their float16 scales [B,C], one for each clip and channel: x is about value * scale.

    The error is half a scale at most: a scale is rounded up, so that the largest value is at most 127 of it.
    """
    import torch

    peak_BC = values_BCX.abs().flatten(2).amax(dim=2)
    scale_BC = (peak_BC / INT8_MAX).half()
    low_BC = scale_BC.float() * INT8_MAX < peak_BC
    scale_BC = torch.where(low_BC, (scale_BC.view(torch.int16) + 1).view(torch.float16), scale_BC)
    divisor_BC = scale_BC.float().clamp_min(torch.finfo(torch.float32).tiny)  # 0 only where all values are
    return (values_BCX / _beside(divisor_BC, values_BCX)).round().to(torch.int8), scale_BC


def _beside(scale_BC: Any, values_BCX: Any) -> Any:
    return scale_BC.reshape(*scale_BC.shape, *(1 for _ in values_BCX.shape[2:]))


def dequantised(features: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Return stored arrays [B,C,...] by name without scales: those of int8 become float32, the others stay."""

    def values_of(name: str) -> NDArray[Any]:
        values, scale_BC = features[name], features.get(name + SCALE)
        return values if scale_BC is None else values * _beside(scale_BC.astype(np.float32), values)

    return {name: values_of(name) for name in features if not name.endswith(SCALE)}


def array_name(map_name: str, statistic: StatisticName) -> str:
    return map_name + statistic_of(statistic).suffix


def source_of(array: str, stored: Collection[str]) -> tuple[str, StatisticName]:
    """Return the array that is read for one that a head is given, and the statistic to take where it has time steps."""
    if array in stored:
        return array, "mean"
    taken = ((name, item.suffix) for name, item in STATISTICS.items() if item.suffix and array.endswith(item.suffix))
    return next((array.removesuffix(suffix), name) for name, suffix in taken)
