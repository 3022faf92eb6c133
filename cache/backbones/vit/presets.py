"""Video ViT sizes; each grid is two rows and columns larger than that of the SlowFast preset it goes with."""

from cache.backbones.registry import Architecture, preset_from
from cache.backbones.vit.model import VideoViT, ViTConfig
from cache.backbones.vit.published import PREFIX, from_published

PRESETS: dict[str, ViTConfig] = {
    # With SlowFast `r50`: 16x16.
    "giant": ViTConfig(),
    # With SlowFast `r50` where the giant is too slow: 16x16, half as many tokens.
    "narrow": ViTConfig(tubelet=(4, 14, 14), channels=192, depth=4, heads=3, mlp_channels=768),
    # With SlowFast `small`: 14x22.
    "small": ViTConfig(height=112, width=176, tubelet=(16, 8, 8), channels=128, depth=3, heads=4, mlp_channels=512),
    # With SlowFast `tiny`: 6x8.
    "tiny": ViTConfig(height=48, width=64, tubelet=(16, 8, 8), channels=16, depth=1, heads=2, mlp_channels=32),
}

ARCHITECTURE = Architecture(
    config=ViTConfig,
    build=VideoViT,
    preset=preset_from(PRESETS, "vit"),
    default_preset="giant",
    from_published=from_published,
    published_prefix=PREFIX,
)
