"""The backbones as one would write them down: what `benchmarks.extract` compares with.

B clips, N tokens, H heads, C channels.
"""

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from cache.backbones.slowfast.model import SlowFast
from cache.backbones.vit.model import NORM_EPS, VideoViT


def plain_vit(model: VideoViT, clip_B3THW: Tensor) -> Tensor:
    """Return the token grid [B,C,T,H,W] from the model's weights, with the attention matrix written out."""
    config = model.config
    x_BNC = model.patch_embed.proj(clip_B3THW).flatten(2).transpose(1, 2) + model.position_NC
    batch, tokens, channels = x_BNC.shape
    for block in model.blocks:
        y_BNC = F.layer_norm(x_BNC, (channels,), block.norm1.weight, block.norm1.bias, NORM_EPS)
        qkv = F.linear(y_BNC, block.attn.qkv.weight, block.attn.qkv.bias)
        # [B, N, 3HD] -> three times [B, H, N, D]
        q, k, v = qkv.reshape(batch, tokens, 3, config.heads, -1).permute(2, 0, 3, 1, 4)
        weights_BHNN = torch.softmax((q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1), dim=-1)
        y_BNC = (weights_BHNN @ v).transpose(1, 2).reshape(batch, tokens, channels)
        x_BNC = x_BNC + F.linear(y_BNC, block.attn.proj.weight, block.attn.proj.bias)
        y_BNC = F.layer_norm(x_BNC, (channels,), block.norm2.weight, block.norm2.bias, NORM_EPS)
        y_BNC = F.gelu(F.linear(y_BNC, block.mlp.fc1.weight, block.mlp.fc1.bias))
        x_BNC = x_BNC + F.linear(y_BNC, block.mlp.fc2.weight, block.mlp.fc2.bias)
    return x_BNC.transpose(1, 2).reshape(batch, channels, *config.token_grid)


def plain_slowfast(model: SlowFast, clip_B3THW: Tensor) -> tuple[Tensor, Tensor]:
    """Return slow and fast. The network is convolutions and nothing else, so the plain form is the module as it is."""
    slow, fast = model(clip_B3THW)
    return slow, fast
