"""The video ViT: tubelet tokens, a fixed position table, pre-norm blocks; the last block's output is the feature.

B clips, C channels, T, H, W steps, rows and columns of the token grid, N = T*H*W tokens.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cache.backbones.normalisation import CLIP_MEAN, CLIP_STD, Colours, renormalise
from cache.backbones.registry import LATER
from cache.statistics import MapShape
from stal_data.errors import InputError

NORM_EPS = 1e-6


@dataclass(frozen=True, kw_only=True)
class ViTConfig:
    """One video ViT."""

    num_frames: int = 32
    height: int = 224
    width: int = 224
    tubelet: tuple[int, int, int] = (2, 14, 14)
    """Frames, rows and columns of the pixels behind one token."""
    channels: int = 1408
    depth: int = 40
    heads: int = 16
    mlp_channels: int = 6144
    frame_step: int = field(default=1, metadata=LATER)
    """Every how many of the clip's num_frames the network sees one, from the first."""
    mean: Colours = field(default=CLIP_MEAN, metadata=LATER)
    """With std: the normalisation of red, green and blue in [0,1] with which the network was trained."""
    std: Colours = field(default=CLIP_STD, metadata=LATER)

    def __post_init__(self) -> None:
        frames, rows, columns = self.tubelet
        steps = {"num_frames": frames * self.frame_step, "height": rows, "width": columns}
        for name, step in steps.items():
            if getattr(self, name) % step:
                raise InputError(f"{name} {getattr(self, name)} is not a multiple of the tubelet's {step}")
        if self.channels % self.heads:
            raise InputError(f"channels {self.channels} is not a multiple of heads {self.heads}")

    @property
    def token_grid(self) -> tuple[int, int, int]:
        """Steps, rows and columns of the token grid."""
        frames, rows, columns = self.tubelet
        return self.num_frames // (frames * self.frame_step), self.height // rows, self.width // columns

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the output map."""
        return self.token_grid[1:]

    @property
    def maps(self) -> dict[str, MapShape]:
        """Channels, time steps, rows and columns of each map."""
        return {"vit": (self.channels, *self.token_grid)}


class PatchEmbed(nn.Module):
    """One convolution that turns each tubelet into a token."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.proj = nn.Conv3d(3, config.channels, config.tubelet, stride=config.tubelet)

    def forward(self, clip_BCTHW: Tensor) -> Tensor:
        """[B, 3, frames, height, width] -> [B, N, C], ordered by step, row, column."""
        tokens: Tensor = self.proj(clip_BCTHW)
        return tokens.flatten(2).transpose(1, 2)


class LayerNorm(nn.LayerNorm):
    """With the epsilon of the published model."""

    def __init__(self, channels: int, **options: Any) -> None:
        super().__init__(channels, eps=NORM_EPS, **options)


class VideoViT(nn.Module):
    """The encoder without final norm and without pooling."""

    position_NC: Tensor

    def __init__(self, config: ViTConfig) -> None:
        from timm.models.vision_transformer import Block  # takes seconds, so only who builds a ViT waits for it

        super().__init__()
        self.config = config
        self.renormalise = renormalise(config.mean, config.std)
        self.patch_embed = PatchEmbed(config)
        # Fixed, so it is not part of a weight file; made on the CPU even when the parameters are built on "meta".
        self.register_buffer("position_NC", position_table(config), persistent=False)
        self.blocks = nn.ModuleList(
            Block(
                dim=config.channels,
                num_heads=config.heads,
                mlp_ratio=config.mlp_channels / config.channels,
                qkv_bias=True,
                norm_layer=LayerNorm,
            )
            for _ in range(config.depth)
        )

    def forward(self, clip_BCTHW: Tensor) -> dict[str, Tensor]:
        """Return the token grid after the last block, as the map `vit`.

        clip_BCTHW: [B, 3, num_frames, height, width], normalised. The map is [B, channels, T, H, W].
        """
        seen_BCTHW = self.renormalise(clip_BCTHW[:, :, :: self.config.frame_step])
        tokens_BNC: Tensor = self.patch_embed(seen_BCTHW) + self.position_NC
        for block in self.blocks:
            tokens_BNC = block(tokens_BNC)
        # [B, N, C] -> [B, C, T, H, W]
        return {"vit": tokens_BNC.transpose(1, 2).reshape(len(clip_BCTHW), -1, *self.config.token_grid)}


def position_table(config: ViTConfig) -> Tensor:
    """[N, C] float32: sine in the even channels, cosine in the odd ones, over the token's number."""
    num_tokens = int(np.prod(config.token_grid))
    channel_C = np.arange(config.channels)
    angle_NC = np.arange(num_tokens)[:, None] / np.power(10000.0, 2 * (channel_C // 2) / config.channels)
    table_NC = np.where(channel_C % 2 == 0, np.sin(angle_NC), np.cos(angle_NC))
    return torch.from_numpy(table_NC.astype(np.float32))
