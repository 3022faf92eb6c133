"""SlowFast with bottleneck blocks; parameter names are those of the published checkpoints.

B clips, C channels, T frames, H, W rows and columns of the map.
"""

from dataclasses import dataclass, field
from typing import cast

import torch
from torch import Tensor, nn

from cache.backbones.normalisation import CLIP_MEAN, CLIP_STD, Colours, renormalise
from cache.backbones.registry import LATER
from cache.backbones.slowfast.blocks import Bottleneck
from cache.statistics import MapShape
from stal_data.errors import InputError

FUSION_RATIO = 2  # a lateral convolution doubles the fast pathway's channels


@dataclass(frozen=True, kw_only=True)
class SlowFastConfig:
    """One SlowFast network. Per-stage tuples have one entry for each residual stage."""

    num_frames: int = 32
    """Frames of an input clip; all go through the fast pathway."""
    alpha: int = 4
    """The slow pathway sees num_frames // alpha frames, spread over the whole clip."""
    height: int = 224
    width: int = 224
    stem_channels: int = 64
    """Channels after the slow pathway's first convolution; the fast one has 1 / beta_inverse of every slow width."""
    beta_inverse: int = 8
    stem_stride: int = 2
    stem_kernel: int = 7
    """Rows and columns of the first convolution."""
    stem_frames: tuple[int, int] = (1, 5)
    """Frames of the first convolution: slow, fast."""
    stem_pool: bool = True
    """Max pooling 3x3 with stride 2 after the first convolution."""
    blocks: tuple[int, ...] = (3, 4, 6, 3)
    widths: tuple[int, ...] = (64, 128, 256, 512)
    """Channels inside a slow bottleneck; a stage puts out `expansion` times as many."""
    expansion: int = 4
    strides: tuple[int, ...] = (1, 2, 2, 1)
    dilations: tuple[int, ...] = (1, 1, 1, 2)
    slow_frames: tuple[int, ...] = (1, 1, 3, 3)
    """Frames of the first convolution in each slow bottleneck."""
    fast_frames: tuple[int, ...] = (3, 3, 3, 3)
    temporal_blocks: tuple[int, ...] | None = field(default=None, metadata=LATER)
    """How many blocks of each stage, from the first, have these frames; the others have 1. None = all blocks."""
    nonlocal_blocks: tuple[int, ...] = field(default=(), metadata=LATER)
    """Numbers, from 0, of the blocks in the slow pathway's last stage but one that a non-local block follows."""
    fusion_frames: int = field(default=7, metadata=LATER)
    """Frames of a lateral convolution."""
    fusion_norm: bool = field(default=True, metadata=LATER)
    """BatchNorm and ReLU after a lateral convolution."""
    slow_from_first: bool = field(default=False, metadata=LATER)
    """The slow pathway sees every alpha-th frame from the first, in place of frames spread over the whole clip."""
    mean: Colours = field(default=CLIP_MEAN, metadata=LATER)
    """With std: the normalisation of red, green and blue in [0,1] with which the network was trained."""
    std: Colours = field(default=CLIP_STD, metadata=LATER)

    def __post_init__(self) -> None:
        per_stage = {"widths", "strides", "dilations", "slow_frames", "fast_frames"}
        if self.temporal_blocks is not None:
            per_stage.add("temporal_blocks")
        for name in sorted(per_stage):
            if len(getattr(self, name)) != len(self.blocks):
                raise InputError(
                    f"{name} has {len(getattr(self, name))} entries for {len(self.blocks)} stages in blocks"
                )
        if self.num_frames % self.alpha:
            raise InputError(f"num_frames {self.num_frames} is not a multiple of alpha {self.alpha}")
        for width in (self.stem_channels, *self.widths):
            if width % self.beta_inverse:
                raise InputError(f"width {width} is not a multiple of beta_inverse {self.beta_inverse}")

    @property
    def slow_channels(self) -> int:
        return self.widths[-1] * self.expansion

    @property
    def fast_channels(self) -> int:
        return self.slow_channels // self.beta_inverse

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the output maps."""
        rows, columns = self.height, self.width
        for stride in (self.stem_stride, 2 if self.stem_pool else 1, *self.strides):
            rows, columns = -(-rows // stride), -(-columns // stride)
        return rows, columns

    @property
    def maps(self) -> dict[str, MapShape]:
        """Channels, time steps, rows and columns of each map."""
        return {
            "slow": (self.slow_channels, self.num_frames // self.alpha, *self.grid),
            "fast": (self.fast_channels, self.num_frames, *self.grid),
        }


class SlowFast(nn.Module):
    """Both pathways: the fast one feeds the slow one before every stage."""

    def __init__(self, config: SlowFastConfig) -> None:
        super().__init__()
        self.config = config
        self.renormalise = renormalise(config.mean, config.std)
        for path, channels, frames in (
            ("slow", config.stem_channels, config.stem_frames[0]),
            ("fast", config.stem_channels // config.beta_inverse, config.stem_frames[1]),
        ):
            self.add_module(f"{path}_conv1", _stem(config, channels, frames))
            self.add_module(f"{path}_bn1", nn.BatchNorm3d(channels))
        self.relu = nn.ReLU(inplace=True)
        self.pool: nn.Module = nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1)) if config.stem_pool else nn.Identity()
        slow = config.stem_channels
        for stage, width in enumerate(config.widths):
            fast = slow // config.beta_inverse
            self.add_module(f"Tconv{stage + 1}", _lateral(config, fast))
            nonlocal_blocks = config.nonlocal_blocks if stage == len(config.blocks) - 2 else ()
            self.add_module(
                f"slow_res{stage + 1}",
                _stage(config, stage, slow + FUSION_RATIO * fast, width, config.slow_frames[stage], nonlocal_blocks),
            )
            self.add_module(
                f"fast_res{stage + 1}",
                _stage(config, stage, fast, width // config.beta_inverse, config.fast_frames[stage]),
            )
            slow = width * config.expansion

    def forward(self, clip_BCTHW: Tensor) -> dict[str, Tensor]:
        """Return the maps of both pathways after the last stage, `slow` and `fast`.

        clip_BCTHW: [B, 3, T, H, W], normalised, T a multiple of alpha; any H and W.
        Returns slow [B, slow_channels, T // alpha, h, w] and fast [B, fast_channels, T, h, w].
        """
        clip_BCTHW = self.renormalise(clip_BCTHW)
        num_frames, alpha = clip_BCTHW.shape[2], self.config.alpha
        indices = range(0, num_frames, alpha) if self.config.slow_from_first else slow_frame_indices(num_frames, alpha)
        slow = self._run("slow", clip_BCTHW[:, :, list(indices)])
        fast = self._run("fast", clip_BCTHW)
        for stage in range(1, len(self.config.blocks) + 1):
            lateral = self.get_submodule(f"Tconv{stage}")(fast)
            slow = self.get_submodule(f"slow_res{stage}")(torch.cat([slow, lateral], dim=1))
            fast = self.get_submodule(f"fast_res{stage}")(fast)
        return {"slow": slow, "fast": fast}

    def _run(self, path: str, clip_BCTHW: Tensor) -> Tensor:
        out = self.get_submodule(f"{path}_conv1")(clip_BCTHW)
        return cast(Tensor, self.pool(self.relu(self.get_submodule(f"{path}_bn1")(out))))


def slow_frame_indices(num_frames: int, alpha: int) -> list[int]:
    """Return the num_frames // alpha frames of the slow pathway: linspace(0, num_frames - 1), floored."""
    count = num_frames // alpha
    return [index * (num_frames - 1) // max(count - 1, 1) for index in range(count)]


def _stem(config: SlowFastConfig, channels: int, frames: int) -> nn.Conv3d:
    kernel, stride = config.stem_kernel, config.stem_stride
    return nn.Conv3d(
        3,
        channels,
        (frames, kernel, kernel),
        stride=(1, stride, stride),
        padding=(frames // 2, kernel // 2, kernel // 2),
        bias=False,
    )


def _lateral(config: SlowFastConfig, fast_channels: int) -> nn.Sequential:
    channels = FUSION_RATIO * fast_channels
    conv = nn.Conv3d(
        fast_channels,
        channels,
        (config.fusion_frames, 1, 1),
        stride=(config.alpha, 1, 1),
        padding=(config.fusion_frames // 2, 0, 0),
        bias=False,
    )
    norm = (nn.BatchNorm3d(channels), nn.ReLU(inplace=True)) if config.fusion_norm else ()
    return nn.Sequential(conv, *norm)


def _stage(
    config: SlowFastConfig, stage: int, in_channels: int, width: int, frames: int, nonlocal_blocks: tuple[int, ...] = ()
) -> nn.Sequential:
    blocks = []
    temporal = config.blocks[stage] if config.temporal_blocks is None else config.temporal_blocks[stage]
    for block in range(config.blocks[stage]):
        blocks.append(
            Bottleneck(
                in_channels,
                width,
                expansion=config.expansion,
                frames=frames if block < temporal else 1,
                stride=config.strides[stage] if block == 0 else 1,
                dilation=config.dilations[stage],
                nonlocal_after=block in nonlocal_blocks,
            )
        )
        in_channels = width * config.expansion
    return nn.Sequential(*blocks)
