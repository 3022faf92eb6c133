"""The ACAR head: every actor meets the whole scene, then every other actor of the clip at each position.

B clips, N actors of all clips, C channels, H, W rows and columns, P = H*W positions, T time steps of the ViT grid.
Parameter names and shapes are those of the published head, so its weights load.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recognizer_svc.heads.acar.config import AcarConfig
from recognizer_svc.heads.batch import MOMENTS, FeatureShapes, HeadBatch
from recognizer_svc.heads.batch_norm import MapBatchNorm, MomentBatchNorm
from recognizer_svc.heads.linear.config import LinearConfig
from recognizer_svc.heads.linear.model import LinearHead
from recognizer_svc.heads.roi import POOLINGS, actor_regions
from stal_data.errors import InputError


class HR2O(nn.Module):
    """Attention among the actors of a clip, at each position on its own, added to the input."""

    def __init__(self, channels: int, dropout: float) -> None:
        super().__init__()
        self.conv_q = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.conv_k = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.conv_v = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.conv = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm = nn.GroupNorm(1, channels)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x_NCHW: Tensor, same_clip_NN: Tensor) -> Tensor:
        """Return maps like `x_NCHW`. same_clip_NN: bool, whether an actor (row) may look at another (column)."""
        _, channels, rows, columns = x_NCHW.shape
        weight = torch.cat([self.conv_q.weight, self.conv_k.weight, self.conv_v.weight])
        qkv_NCHW = F.conv2d(x_NCHW, weight, padding=1)
        out_PNC = attention(qkv_NCHW.flatten(2).permute(2, 0, 1), same_clip_NN)
        out_NCHW = out_PNC.permute(1, 2, 0).reshape(-1, channels, rows, columns)
        added_NCHW: Tensor = self.dropout(self.conv(F.relu(self.norm(out_NCHW))))
        return x_NCHW + added_NCHW


def attention(qkv_PN3C: Tensor, mask_NN: Tensor) -> Tensor:
    """Return what each of N actors takes from the others at each of P positions, [P, N, C].

    Scaled by 1/sqrt(C). The fused kernels stream over the keys, so memory does not grow with the square of a crowd.
    They are only chosen for [batch, heads, N, C] whose last axis is contiguous, and then for any mask that broadcasts.
    """
    q_P1NC, k_P1NC, v_P1NC = (part.contiguous()[:, None] for part in qkv_PN3C.chunk(3, dim=2))
    out_P1NC = F.scaled_dot_product_attention(q_P1NC, k_P1NC, v_P1NC, attn_mask=mask_NN[None, None])
    return out_P1NC[:, 0]


class AcarHead(nn.Module):
    """Fused scene map -> actor vectors -> actor-context maps -> HR2O -> one logit per actor and class."""

    def __init__(self, config: AcarConfig, shapes: FeatureShapes, num_classes: int) -> None:
        super().__init__()
        grid = _map_grid(shapes)
        self.maps = tuple(shapes.maps)
        self.normalised_map = _normalised_map(shapes)
        fused_channels = sum(shape[0] for shape in shapes.maps.values())
        if self.normalised_map is not None:
            channels = shapes.maps[self.normalised_map][0]
            self.BN_vit = MomentBatchNorm(channels, shapes.time_steps[self.normalised_map])
            self.conv_auto = nn.Conv3d(channels, channels, (1, 3, 3))
        if min(grid) < 3:
            raise InputError(f"The feature maps are {grid[0]}x{grid[1]}; the ACAR head needs at least 3x3.")
        reduced, context = config.reduce_channels, config.context_channels
        self.roi_size, self.pooling = config.roi_size, POOLINGS[config.pooling]
        actor = len(self.pooling) * reduced
        self.norm = MapBatchNorm(fused_channels) if config.standardise else nn.Identity()
        self.conv_reduce = nn.Conv2d(fused_channels, reduced, 1, bias=False)
        self.conv1 = nn.Conv2d(reduced + actor, context, 1, bias=False)
        self.conv2 = nn.Conv2d(context, context, 3, bias=False)
        self.hr2o = nn.ModuleList(HR2O(context, config.dropout) for _ in range(config.depth))
        self.fc1 = nn.Linear(actor, context, bias=False)
        self.fc2 = nn.Linear(2 * context, num_classes, bias=False)
        linear = LinearConfig(roi_size=config.roi_size)
        self.linear = LinearHead(linear, shapes, num_classes) if config.linear_skip else None

    def forward(self, batch: HeadBatch) -> Tensor:
        """Return logits [N, classes]."""
        map_BCHW = self.conv_reduce(self.norm(self._fused_map(batch)))
        region_NCHW = actor_regions(map_BCHW, batch.boxes_N4, batch.clip_of_N, self.roi_size)
        actor_NC = torch.cat([pool(region_NCHW) for pool in self.pooling], dim=1)
        context_NCHW = self._actor_context(map_BCHW, actor_NC, batch.clip_of_N)
        same_clip_NN = batch.clip_of_N[:, None] == batch.clip_of_N[None, :]
        for layer in self.hr2o:
            context_NCHW = layer(context_NCHW, same_clip_NN)
        both_NC = torch.cat([F.relu(self.fc1(actor_NC)), context_NCHW.mean(dim=(2, 3))], dim=1)
        logits_NC: Tensor = self.fc2(both_NC)
        return logits_NC if self.linear is None else logits_NC + self.linear(batch)

    def _fused_map(self, batch: HeadBatch) -> Tensor:
        maps = []
        for name in self.maps:
            map_BCHW = batch.features[name]
            if name == self.normalised_map:
                map_BCHW = self.BN_vit(map_BCHW, batch.features[name + MOMENTS])
                # The (1,3,3) conv is linear in each frame, so it runs once, on the time mean.
                map_BCHW = F.conv2d(map_BCHW, self.conv_auto.weight.squeeze(2), self.conv_auto.bias)
            maps.append(map_BCHW)
        return torch.cat(maps, dim=1)

    def _actor_context(self, map_BCHW: Tensor, actor_NC: Tensor, clip_of_N: Tensor) -> Tensor:
        """Return actor-context maps [N, C, H', W'].

        The 1x1 conv over [map, tiled actor] is split: the map's part once a clip, the actor's part once an actor.
        """
        map_channels = map_BCHW.shape[1]
        map_weight, actor_weight = self.conv1.weight[:, :map_channels], self.conv1.weight[:, map_channels:]
        scene_BCHW = F.conv2d(map_BCHW, map_weight)
        own_NC = F.linear(actor_NC, actor_weight.flatten(1))
        # Indexing with [clip_of_N] would add up its gradient in the order in which the threads get there.
        mixed_NCHW = F.relu(scene_BCHW.index_select(0, clip_of_N) + own_NC[:, :, None, None])
        return F.max_pool2d(F.relu(self.conv2(mixed_NCHW)), 3, stride=2, padding=1)


def _map_grid(shapes: FeatureShapes) -> tuple[int, int]:
    """Rows and columns of the fused map; a map with moments loses a border of one cell in its 3x3 conv."""
    grids = {}
    for name, (_, rows, columns) in shapes.maps.items():
        border = 2 if name in shapes.time_steps else 0
        grids[name] = (rows - border, columns - border)
    if len(set(grids.values())) != 1:
        found = ", ".join(f"{name} {rows}x{columns}" for name, (rows, columns) in grids.items())
        raise InputError(
            f"The ACAR head needs maps of one size (those with moments after a 3x3 conv without padding), got {found}; "
            "use backbone presets that belong together, or choose among them with data.streams."
        )
    return next(iter(grids.values()))


def _normalised_map(shapes: FeatureShapes) -> str | None:
    """The map that goes through BatchNorm and a 3x3 conv first: the one with moments, as the published ViT's grid."""
    if len(shapes.time_steps) > 1:
        raise InputError(
            f"The ACAR head normalises one map with moments, got {', '.join(shapes.time_steps)}; choose backbones with "
            "data.streams."
        )
    return next(iter(shapes.time_steps), None)
