"""SlowFast and a head as one network, for one optimizer and one gradient exchange.

B clips, C channels, T frames, H, W rows and columns.
"""

from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor, nn

from cache.statistics import time_mean
from recognizer_svc.heads.batch import HeadBatch


@dataclass(frozen=True, kw_only=True, slots=True)
class JointBatch:
    """A head's batch whose SlowFast maps are still to be computed.

    clips_B3THW: float32, normalised; a clip is mirrored where its ViT features and its boxes are.
    cached: the rest of the batch, without slow and fast.
    """

    clips_B3THW: Tensor
    cached: HeadBatch

    def to(self, device: torch.device) -> "JointBatch":
        return JointBatch(clips_B3THW=self.clips_B3THW.to(device, non_blocking=True), cached=self.cached.to(device))


class JointModel(nn.Module):
    """A head on SlowFast's maps, pooled as precompute pools them, and on cached ViT features."""

    def __init__(self, slowfast: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.slowfast = slowfast.requires_grad_(True)
        self.head = head

    def train(self, mode: bool = True) -> Self:
        """Set the head's mode. SlowFast's BatchNorm keeps its statistics; only its scale and shift are trained."""
        super().train(mode)
        self.slowfast.eval()
        return self

    def forward(self, batch: JointBatch) -> Tensor:
        """Return logits [N, classes]."""
        pooled = {name: time_mean(map_BCTHW) for name, map_BCTHW in self.slowfast(batch.clips_B3THW).items()}
        logits_NC: Tensor = self.head(replace(batch.cached, features={**pooled, **batch.cached.features}))
        return logits_NC
