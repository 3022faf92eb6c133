"""Video ViT sizes.

The grid of `giant`, `narrow`, `small` and `tiny` is two rows and columns larger than that of the SlowFast preset that
they go with.
"""

from cache.backbones.normalisation import IMAGENET_MEAN, IMAGENET_STD
from cache.backbones.registry import Architecture, preset_from
from cache.backbones.vit.model import VideoViT, ViTConfig
from cache.backbones.vit.published import PREFIX, from_published


def _videomae(channels: int, depth: int, heads: int, *, patch: int = 16, mlp_channels: int | None = None) -> ViTConfig:
    """A size of VideoMAE as it was trained: 16 frames, every fourth of the video."""
    return ViTConfig(
        tubelet=(2, patch, patch),
        channels=channels,
        depth=depth,
        heads=heads,
        mlp_channels=mlp_channels or 4 * channels,
        frame_step=2,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
    )


PRESETS: dict[str, ViTConfig] = {
    # With SlowFast `r50`: 16x16.
    "giant": ViTConfig(),
    # With SlowFast `r50` where the giant is too slow: 16x16, half as many tokens.
    "narrow": ViTConfig(tubelet=(4, 14, 14), channels=192, depth=4, heads=3, mlp_channels=768),
    # With SlowFast `small`: 14x22.
    "small": ViTConfig(height=112, width=176, tubelet=(16, 8, 8), channels=128, depth=3, heads=4, mlp_channels=512),
    # With SlowFast `tiny`: 6x8.
    "tiny": ViTConfig(height=48, width=64, tubelet=(16, 8, 8), channels=16, depth=1, heads=2, mlp_channels=32),
    "videomae-small": _videomae(384, 12, 6),
    "videomae-base": _videomae(768, 12, 12),
    "videomae-large": _videomae(1024, 24, 16),
    "videomae-huge": _videomae(1280, 32, 16),
    "videomae-giant": _videomae(1408, 40, 16, patch=14, mlp_channels=6144),
}

ARCHITECTURE = Architecture(
    config=ViTConfig,
    build=VideoViT,
    preset=preset_from(PRESETS, "vit"),
    default_preset="giant",
    from_published=from_published,
    published_prefix=PREFIX,
)
