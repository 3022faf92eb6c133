"""From the backbones' outputs to the stored arrays.

B clips, C channels, T, H, W steps, rows and columns of a map.
"""

import torch
from torch import Tensor


def pool_slowfast(slow_BCTHW: Tensor, fast_BCTHW: Tensor) -> dict[str, Tensor]:
    """Return the time means `slow` and `fast`, each [B,C,H,W] float32."""
    return {"slow": slow_BCTHW.float().mean(dim=2), "fast": fast_BCTHW.float().mean(dim=2)}


def pool_vit(grid_BCTHW: Tensor) -> dict[str, Tensor]:
    """Return `vit` [B,C,H,W], the time mean, and `vit_moments` [B,2,C], mean and mean square over T,H,W; float32.

    The head's BatchNorm needs the moments of the full grid: from the time mean alone the variance is lost.
    """
    grid_BCTHW = grid_BCTHW.float()
    moments_B2C = torch.stack([grid_BCTHW.mean(dim=(2, 3, 4)), grid_BCTHW.square().mean(dim=(2, 3, 4))], dim=1)
    return {"vit": grid_BCTHW.mean(dim=2), "vit_moments": moments_B2C}
