"""Full-time features of clips, and what the cache keeps of them."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from recognizer_svc.data import LabelledBatch
from recognizer_svc.heads.batch import FeatureShapes, HeadBatch
from stal_data.keyframes import KeyFrame
from tests.recognizer.feature_maps import feature_shapes, present


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Channels, steps in time, rows and columns of each backbone's output; the ViT's grid has a border of one cell."""

    slow: int
    fast: int
    vit: int
    slow_frames: int
    fast_frames: int
    vit_frames: int
    rows: int
    columns: int
    classes: int

    @property
    def shapes(self) -> FeatureShapes:
        return feature_shapes(
            slow=(self.slow, self.rows, self.columns),
            fast=(self.fast, self.rows, self.columns),
            vit=(self.vit, self.rows + 2, self.columns + 2),
            vit_frames=self.vit_frames,
        )


@dataclass(frozen=True, kw_only=True)
class FullTimeClips:
    """rois_N5: clip index, then x1,y1,x2,y2 in [0,1]."""

    slow_BCTHW: Tensor
    fast_BCTHW: Tensor
    vit_BCTHW: Tensor
    rois_N5: Tensor
    targets_NC: Tensor

    @property
    def inputs(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return self.slow_BCTHW, self.fast_BCTHW, self.vit_BCTHW, self.rois_N5


def random_clips(counts: Sequence[int], sizes: Sizes, *, first: int) -> FullTimeClips:
    """Clips with so many actors each, in float64; a clip's content depends on its number alone, `first` and up."""
    slow, fast, vit, rois, targets = [], [], [], [], []
    for index, count in enumerate(counts):
        random = torch.Generator().manual_seed(first + index)

        def normal(*shape: int, random: torch.Generator = random) -> Tensor:
            return torch.randn(*shape, generator=random, dtype=torch.float64)

        slow.append(normal(sizes.slow, sizes.slow_frames, sizes.rows, sizes.columns).relu())
        fast.append(normal(sizes.fast, sizes.fast_frames, sizes.rows, sizes.columns).relu())
        # A mean and a scale of its own for each clip, so that the statistics of a batch depend on which clips it holds.
        grid = normal(sizes.vit, sizes.vit_frames, sizes.rows + 2, sizes.columns + 2)
        vit.append(grid * (1 + 0.3 * normal(sizes.vit, 1, 1, 1).abs()) + 0.3 * normal(sizes.vit, 1, 1, 1))
        corner, size = torch.rand(2, count, 2, generator=random, dtype=torch.float64) * 0.45 + 0.05
        clip_n1 = torch.full((count, 1), float(index), dtype=torch.float64)
        rois.append(torch.cat([clip_n1, corner, corner + size], dim=1))
        targets.append((torch.rand(count, sizes.classes, generator=random, dtype=torch.float64) < 0.3).double())

    def together(parts: list[Tensor], *shape: int) -> Tensor:
        return torch.stack(parts) if parts else torch.empty(0, *shape, dtype=torch.float64)

    rows, columns = sizes.rows, sizes.columns
    return FullTimeClips(
        slow_BCTHW=together(slow, sizes.slow, sizes.slow_frames, rows, columns),
        fast_BCTHW=together(fast, sizes.fast, sizes.fast_frames, rows, columns),
        vit_BCTHW=together(vit, sizes.vit, sizes.vit_frames, rows + 2, columns + 2),
        rois_N5=torch.cat([torch.empty(0, 5, dtype=torch.float64), *rois]),
        targets_NC=torch.cat([torch.empty(0, sizes.classes, dtype=torch.float64), *targets]),
    )


def pooled(slow: Tensor | None, fast: Tensor | None, vit: Tensor | None, rois_N5: Tensor) -> HeadBatch:
    """What the cache keeps of full-time features [B, C, T, H, W], in their own precision."""
    maps = present(slow=slow, fast=fast, vit=vit)
    features = {name: values.mean(2) for name, values in maps.items()}
    if vit is not None:
        features["vit_moments"] = torch.stack([vit.mean((2, 3, 4)), vit.square().mean((2, 3, 4))], dim=1)
    return HeadBatch(features=features, boxes_N4=rois_N5[:, 1:], clip_of_N=rois_N5[:, 0].long())


def cached(clips: FullTimeClips) -> LabelledBatch:
    """The training batch of these clips."""
    return LabelledBatch(
        head=pooled(*clips.inputs),
        targets_NC=clips.targets_NC,
        keys=tuple(KeyFrame("v", 1000 * second) for second in range(len(clips.slow_BCTHW))),
    )
