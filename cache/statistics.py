"""What is kept of a backbone's map: its statistics, each stored as one array.

B clips, C channels, T, H, W steps, rows and columns of the map. Importing this needs no torch.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import Tensor

StatisticName = Literal["mean", "max", "slope", "moments", "full"]
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


STATISTICS: dict[StatisticName, Statistic] = {
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


def array_name(map_name: str, statistic: StatisticName) -> str:
    return map_name + STATISTICS[statistic].suffix


def source_of(array: str, stored: Collection[str]) -> tuple[str, StatisticName]:
    """Return the array that is read for one that a head is given, and the statistic to take where it has time steps."""
    if array in stored:
        return array, "mean"
    taken = ((name, item.suffix) for name, item in STATISTICS.items() if item.suffix and array.endswith(item.suffix))
    return next((array.removesuffix(suffix), name) for name, suffix in taken)
