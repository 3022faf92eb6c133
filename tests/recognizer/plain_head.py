"""The ACAR head as the published code computes it: plain, slow, and without any of our shortcuts.

Full-time features, one clip and one actor at a time, the actor's vector tiled over the map and concatenated, every pair
of actors on its own. Parameter names and shapes are the published ones. Without dropout. What the config adds to the
published head is here, too, as plainly.

B clips, T steps in time, n actors of one clip, N actors of all clips, C channels, H, W rows and columns.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import roi_align

from recognizer_svc.heads.acar.config import AcarConfig
from recognizer_svc.heads.batch import FeatureShapes


class PlainHR2O(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv_q = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.conv_k = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.conv_v = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.conv = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm = nn.GroupNorm(1, channels)

    def forward(self, x_nCHW: Tensor) -> Tensor:
        """The actors are those of one clip."""
        q, k, v = self.conv_q(x_nCHW), self.conv_k(x_nCHW), self.conv_v(x_nCHW)
        attended = []
        for one in range(len(x_nCHW)):
            similarity_nHW = torch.stack([(q[one] * k[other]).sum(0) for other in range(len(x_nCHW))])
            weight_nHW = torch.softmax(similarity_nHW / math.sqrt(x_nCHW.shape[1]), dim=0)
            attended.append(sum(weight_nHW[other] * v[other] for other in range(len(x_nCHW))))
        return x_nCHW + self.conv(F.relu(self.norm(torch.stack(attended))))


def region(map_CHW: Tensor, box_4: Tensor) -> Tensor:
    """Return a box's aligned region, [C, 7, 7]."""
    rows, columns = map_CHW.shape[1:]
    roi_15 = torch.cat([box_4.new_zeros(1), box_4 * box_4.new_tensor([columns, rows, columns, rows])])[None]
    return roi_align(map_CHW[None], roi_15, 7)[0]


class PlainHead(nn.Module):
    def __init__(self, config: AcarConfig, shapes: FeatureShapes, num_classes: int) -> None:
        super().__init__()
        maps = shapes.maps
        reduced, context = config.reduce_channels, config.context_channels
        if "vit" in maps:
            channels = maps["vit"][0]
            self.BN_vit = nn.BatchNorm3d(channels)
            self.conv_auto = nn.Conv3d(channels, channels, (1, 3, 3))
        fused = sum(shape[0] for shape in maps.values())
        self.conv_reduce = nn.Conv2d(fused, reduced, 1, bias=False)
        self.norm = nn.BatchNorm2d(fused, affine=False) if config.standardise else nn.Identity()
        self.pools = {"max": [torch.amax], "mean": [torch.mean], "mean_max": [torch.mean, torch.amax]}[config.pooling]
        actor = len(self.pools) * reduced
        self.conv1 = nn.Conv2d(reduced + actor, context, 1, bias=False)
        self.conv2 = nn.Conv2d(context, context, 3, bias=False)
        self.hr2o = nn.ModuleList(PlainHR2O(context) for _ in range(config.depth))
        self.fc1 = nn.Linear(actor, context, bias=False)
        self.fc2 = nn.Linear(2 * context, num_classes, bias=False)
        parts = {"norm": nn.BatchNorm1d(fused, affine=False), "fc": nn.Linear(fused, num_classes)}
        self.linear = nn.ModuleDict(parts) if config.linear_skip else None

    def forward(
        self, slow_BCTHW: Tensor | None, fast_BCTHW: Tensor | None, vit_BCTHW: Tensor | None, rois_N5: Tensor
    ) -> Tensor:
        """Return logits [N, classes]. rois_N5: clip index, then x1,y1,x2,y2 in [0,1]; clips in order."""
        features = [feature.mean(dim=2) for feature in (slow_BCTHW, fast_BCTHW) if feature is not None]
        if vit_BCTHW is not None:
            features.append(self.conv_auto(self.BN_vit(vit_BCTHW)).mean(dim=2))
        map_BCHW = self.conv_reduce(self.norm(torch.cat(features, dim=1)))
        logits = []
        for clip, map_CHW in enumerate(map_BCHW):
            boxes_n4 = rois_N5[rois_N5[:, 0] == clip, 1:]
            if len(boxes_n4):
                logits.append(self._clip(map_CHW, boxes_n4))
        if self.linear is None:
            return torch.cat(logits)
        means = [maps.mean(dim=2) for maps in (slow_BCTHW, fast_BCTHW, vit_BCTHW) if maps is not None]
        own = [torch.cat([region(maps[int(roi[0])], roi[1:]).amax((1, 2)) for maps in means]) for roi in rois_N5]
        return torch.cat(logits) + self.linear["fc"](self.linear["norm"](torch.stack(own)))

    def _clip(self, map_CHW: Tensor, boxes_n4: Tensor) -> Tensor:
        rows, columns = map_CHW.shape[1:]
        actors, contexts = [], []
        for box_4 in boxes_n4:
            actor_C = torch.cat([pool(region(map_CHW, box_4), dim=(1, 2)) for pool in self.pools])
            tiled_CHW = actor_C[:, None, None].expand(-1, rows, columns)
            context = F.relu(self.conv1(torch.cat([map_CHW, tiled_CHW])[None]))
            context = F.relu(self.conv2(context))
            contexts.append(F.max_pool2d(context, 3, stride=2, padding=1)[0])
            actors.append(actor_C)
        x_nCHW = torch.stack(contexts)
        for layer in self.hr2o:
            x_nCHW = layer(x_nCHW)
        both = [torch.cat([F.relu(self.fc1(a)), x.mean(dim=(1, 2))]) for a, x in zip(actors, x_nCHW, strict=True)]
        return torch.stack([self.fc2(vector) for vector in both])
