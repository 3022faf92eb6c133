"""One pre-norm transformer block, with the tensor names of timm's: importing timm takes seconds, for one of its blocks.

B clips, N tokens, C channels, H heads, D channels of a head.
"""

from torch import Tensor, nn
from torch.nn import functional

NORM_EPS = 1e-6
"""Of the published model."""


class Attention(nn.Module):
    """Self-attention of all tokens."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)

    def forward(self, tokens_BNC: Tensor) -> Tensor:
        """[B, N, C] -> [B, N, C]."""
        qkv_BN3HD: Tensor = self.qkv(tokens_BNC).unflatten(2, (3, self.heads, -1))
        query_BHND, key_BHND, value_BHND = qkv_BN3HD.permute(2, 0, 3, 1, 4)
        mixed_BHND = functional.scaled_dot_product_attention(query_BHND, key_BHND, value_BHND)
        projected_BNC: Tensor = self.proj(mixed_BHND.transpose(1, 2).flatten(2))
        return projected_BNC


class Mlp(nn.Module):
    """Two layers, of each token by itself."""

    def __init__(self, channels: int, hidden_channels: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, hidden_channels)
        self.fc2 = nn.Linear(hidden_channels, channels)

    def forward(self, tokens_BNC: Tensor) -> Tensor:
        """[B, N, C] -> [B, N, C]."""
        mixed_BNC: Tensor = self.fc2(functional.gelu(self.fc1(tokens_BNC)))
        return mixed_BNC


class Block(nn.Module):
    """Attention, then the MLP, each added to its own input."""

    def __init__(self, channels: int, heads: int, mlp_channels: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels, eps=NORM_EPS)
        self.attn = Attention(channels, heads)
        self.norm2 = nn.LayerNorm(channels, eps=NORM_EPS)
        self.mlp = Mlp(channels, mlp_channels)

    def forward(self, tokens_BNC: Tensor) -> Tensor:
        """[B, N, C] -> [B, N, C]."""
        attended_BNC = tokens_BNC + self.attn(self.norm1(tokens_BNC))
        result_BNC: Tensor = attended_BNC + self.mlp(self.norm2(attended_BNC))
        return result_BNC
