"""From the backbones' outputs to the stored arrays.

B clips, C channels, T, H, W steps, rows and columns of a map.
"""

import torch
from torch import Tensor


def time_mean(values_BCTHW: Tensor) -> Tensor:
    """Return the mean over time, [B,C,H,W] float32."""
    return values_BCTHW.float().mean(dim=2)


def pool_slowfast(slow_BCTHW: Tensor, fast_BCTHW: Tensor) -> dict[str, Tensor]:
    """Return the time means `slow` and `fast`, each [B,C,H,W] float32."""
    return {"slow": time_mean(slow_BCTHW), "fast": time_mean(fast_BCTHW)}


def pool_vit(grid_BCTHW: Tensor) -> dict[str, Tensor]:
    """Return `vit` [B,C,H,W], the time mean, and `vit_moments`; float32."""
    return {"vit": time_mean(grid_BCTHW), "vit_moments": grid_moments(grid_BCTHW)}


def grid_moments(grid_BCTHW: Tensor) -> Tensor:
    """Return mean and mean square of each channel over T,H,W, [B,2,C] float32.

    The head's BatchNorm needs them: from the time mean alone the variance is lost.
    """
    grid_BCTHW = grid_BCTHW.float()
    return torch.stack([grid_BCTHW.mean(dim=(2, 3, 4)), grid_BCTHW.square().mean(dim=(2, 3, 4))], dim=1)
