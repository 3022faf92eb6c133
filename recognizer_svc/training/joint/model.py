"""A backbone and a head as one network, for one optimizer and one gradient exchange.

B clips, C channels, T frames, H, W rows and columns.
"""

from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor, nn

from cache.backbones.load import LoadedBackbone
from cache.statistics import statistic_of
from recognizer_svc.heads.batch import HeadBatch


@dataclass(frozen=True, kw_only=True, slots=True)
class JointBatch:
    """A head's batch of which one backbone's maps are still to be computed.

    clips_B3THW: float32, normalised; a clip is mirrored where its cached features and its boxes are.
    cached: the rest of the batch.
    """

    clips_B3THW: Tensor
    cached: HeadBatch

    def to(self, device: torch.device) -> "JointBatch":
        return JointBatch(clips_B3THW=self.clips_B3THW.to(device, non_blocking=True), cached=self.cached.to(device))


class JointModel(nn.Module):
    """A head on a backbone's maps, reduced as precompute reduces them, and on cached features of others."""

    def __init__(self, backbone: LoadedBackbone, head: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone.model.requires_grad_(True)
        self.arrays = backbone.spec.arrays
        self.head = head

    def train(self, mode: bool = True) -> Self:
        """Set the head's mode. The backbone's BatchNorm keeps its statistics; only its scale and shift are trained."""
        super().train(mode)
        self.backbone.eval()
        return self

    def forward(self, batch: JointBatch) -> Tensor:
        """Return logits [N, classes]."""
        maps = self.backbone(batch.clips_B3THW)
        live = {array.name: statistic_of(array.statistic).compute(maps[array.map]) for array in self.arrays}
        logits_NC: Tensor = self.head(replace(batch.cached, features={**live, **batch.cached.features}))
        return logits_NC
