"""SlowFast sizes. `small` is the demo's, `tiny` only shows in tests that the parts fit together."""

from cache.backbones.registry import Architecture, preset_from
from cache.backbones.slowfast.model import SlowFast, SlowFastConfig
from cache.backbones.slowfast.published import PREFIX, from_published

PRESETS: dict[str, SlowFastConfig] = {
    # Maps of 14x14.
    "r50": SlowFastConfig(),
    # Maps of 12x20: stride 8 by a coarser stem, since the first convolutions dominate on a CPU.
    "small": SlowFastConfig(
        height=96,
        width=160,
        stem_channels=32,
        beta_inverse=4,
        stem_stride=4,
        stem_pool=False,
        blocks=(1, 2, 1),
        widths=(32, 48, 48),
        expansion=2,
        strides=(1, 2, 1),
        dilations=(1, 1, 1),
        slow_frames=(1, 3, 3),
        fast_frames=(3, 3, 3),
    ),
    # Maps of 4x6.
    "tiny": SlowFastConfig(
        height=32,
        width=48,
        stem_channels=8,
        beta_inverse=4,
        stem_stride=4,
        stem_frames=(1, 3),
        stem_pool=False,
        blocks=(1, 1),
        widths=(8, 8),
        expansion=2,
        strides=(1, 2),
        dilations=(1, 1),
        slow_frames=(1, 3),
        fast_frames=(3, 3),
    ),
}

ARCHITECTURE = Architecture(
    config=SlowFastConfig,
    build=SlowFast,
    preset=preset_from(PRESETS, "slowfast"),
    default_preset="r50",
    from_published=from_published,
    published_prefix=PREFIX,
    # Windows are enough for convolutions, and several times cheaper.
    window_share=7 / 12,
    train_batch=24,
)
