"""The linear baseline: what an actor's own region tells, without any other person and without the scene.

B clips, N actors of all clips, C channels, H, W rows and columns.
"""

import torch
from torch import Tensor, nn

from recognizer_svc.heads.batch import FeatureShapes, HeadBatch
from recognizer_svc.heads.batch_norm import ActorBatchNorm
from recognizer_svc.heads.linear.config import LinearConfig
from recognizer_svc.heads.roi import actor_vectors


class LinearHead(nn.Module):
    """Max-pooled region of each feature map -> concatenated -> one linear layer."""

    def __init__(self, config: LinearConfig, shapes: FeatureShapes, num_classes: int) -> None:
        super().__init__()
        channels = sum(shape[0] for shape in shapes.maps.values())
        self.maps = tuple(shapes.maps)
        self.roi_size = config.roi_size
        self.norm = ActorBatchNorm(channels) if config.standardise else None
        self.dropout = nn.Dropout(config.dropout)
        self.fc = nn.Linear(channels, num_classes)

    def forward(self, batch: HeadBatch) -> Tensor:
        """Return logits [N, classes]."""
        maps = [batch.features[name] for name in self.maps]
        actor_NC = torch.cat([actor_vectors(m, batch.boxes_N4, batch.clip_of_N, self.roi_size) for m in maps], dim=1)
        if self.norm is not None:
            actor_NC = self.norm(actor_NC)
        logits_NC: Tensor = self.fc(self.dropout(actor_NC))
        return logits_NC
