"""The heads' batch normalisation: statistics of a rank's own clips, or of the clips of all ranks.

All kinds start from sums over the rows of a batch (clips or actors), and sums of all ranks add up. nn.SyncBatchNorm
does not serve: it refuses the CPU, and it knows nothing of stored moments.

B clips, N actors of all clips, R rows of either, C channels, H, W rows and columns of a map.
"""

from collections.abc import Callable

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx


def share_statistics(head: nn.Module) -> None:
    """Let every batch normalisation of `head` use the clips of all ranks from now on.

    Needs a process group; every rank must run each training forward, with or without clips of its own.
    """
    for module in head.modules():
        if isinstance(module, BatchNorm):
            module.shared = True


class _SumOverRanks(torch.autograd.Function):
    """A sum over ranks, whose gradient is the sum of the ranks' gradients."""

    @staticmethod
    def forward(_ctx: FunctionCtx, values: Tensor) -> Tensor:
        total = values.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(_ctx: FunctionCtx, gradient: Tensor) -> Tensor:
        total = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total


class BatchNorm(nn.Module):
    """What the kinds share: running statistics under BatchNorm's names, and the statistics of a batch."""

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor
    momentum = 0.1
    eps = 1e-5
    shared = False
    """Whether a batch is that of all ranks together."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))
        self.register_buffer("num_batches_tracked", torch.tensor(0))

    def statistics(self, moments_R2C: Tensor, values_per_row: int) -> tuple[Tensor, Tensor]:
        """Return mean and variance [C] to normalise with; in training they are the batch's, and are tracked.

        moments_R2C: float64, mean and mean square of the `values_per_row` values of each row and channel.
        A batch of fewer than two values has no variance: it gets the running statistics.
        """
        if not self.training:
            return self.running_mean, self.running_var
        sum_2C, rows = moments_R2C.sum(dim=0), len(moments_R2C)
        if self.shared:
            total = _SumOverRanks.apply(torch.cat([sum_2C.flatten(), sum_2C.new_tensor([rows])]))
            sum_2C, rows = total[:-1].view_as(sum_2C), int(total[-1])
        count = rows * values_per_row
        if count < 2:
            return self.running_mean, self.running_var
        mean_C, square_C = (sum_2C / rows).unbind()
        var_C = (square_C - mean_C.square()).clamp_min(0)
        mean_C, var_C = mean_C.to(self.running_mean.dtype), var_C.to(self.running_var.dtype)
        with torch.no_grad():
            self.running_mean.lerp_(mean_C, self.momentum)
            self.running_var.lerp_(var_C * (count / (count - 1)), self.momentum)
            self.num_batches_tracked += 1
        return mean_C, var_C


class MomentBatchNorm(BatchNorm):
    """BatchNorm3d of a map with all its time steps, computed on its time mean and its moments.

    Normalising is affine per channel, so it commutes with the time mean; the batch statistics follow from each
    clip's mean and mean square. State names are BatchNorm3d's.
    """

    def __init__(self, channels: int, frames: int) -> None:
        super().__init__(channels)
        self.frames = frames
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, map_BCHW: Tensor, moments_B2C: Tensor) -> Tensor:
        """Return the normalised time mean, [B, C, H, W]."""
        rows, columns = map_BCHW.shape[2:]
        # Float64, because a mean square minus a squared mean cancels.
        mean_C, var_C = self.statistics(moments_B2C.double(), self.frames * rows * columns)
        scale_C = self.weight * torch.rsqrt(var_C + self.eps)
        shift_C = self.bias - mean_C * scale_C
        return torch.addcmul(shift_C[:, None, None], map_BCHW, scale_C[:, None, None])


class MapBatchNorm(BatchNorm):
    """BatchNorm2d of maps, without scale and shift."""

    def forward(self, map_BCHW: Tensor) -> Tensor:
        """Return the normalised maps, [B, C, H, W]."""
        exact_BCP = map_BCHW.flatten(2).double()
        moments_B2C = torch.stack([exact_BCP.mean(dim=2), exact_BCP.square().mean(dim=2)], dim=1)
        mean_C, var_C = self.statistics(moments_B2C, exact_BCP.shape[2])
        return (map_BCHW - mean_C[:, None, None]) * torch.rsqrt(var_C + self.eps)[:, None, None]


class ActorBatchNorm(BatchNorm):
    """BatchNorm1d of the actors' vectors, without scale and shift."""

    def forward(self, actor_NC: Tensor) -> Tensor:
        """Return the normalised vectors, [N, C]."""
        return self.fitted(actor_NC)(actor_NC)

    def fitted(self, actor_NC: Tensor) -> Callable[[Tensor], Tensor]:
        """Return what normalises vectors [..., C] by the statistics of these actors (in evaluation by the tracked)."""
        exact_NC = actor_NC.double()
        mean_C, var_C = self.statistics(torch.stack([exact_NC, exact_NC.square()], dim=1), 1)
        scale_C = torch.rsqrt(var_C + self.eps)
        return lambda vectors_XC: (vectors_XC - mean_C) * scale_C
