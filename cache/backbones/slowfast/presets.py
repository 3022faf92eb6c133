"""SlowFast sizes; the last stage of all keeps its rows and columns, as detection needs it.

`small` is the demo's, `tiny` only shows in tests that the parts fit together.
"""

from dataclasses import replace

from cache.backbones.normalisation import IMAGENET_MEAN, IMAGENET_STD
from cache.backbones.registry import Architecture, preset_from
from cache.backbones.slowfast.model import SlowFast, SlowFastConfig
from cache.backbones.slowfast.published import PREFIX, check_settings, from_published

_R101 = SlowFastConfig(blocks=(3, 4, 23, 3), fusion_frames=5)


def _mmaction2(config: SlowFastConfig) -> SlowFastConfig:
    """The network as mmaction2 builds it for detection, where it differs."""
    return replace(
        config, dilations=(1, 1, 1, 1), fusion_norm=False, slow_from_first=True, mean=IMAGENET_MEAN, std=IMAGENET_STD
    )


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
    # PySlowFast's; of R50, 8x8 is `r50`. The numbers are frames of the slow pathway and their distance.
    "r50-4x16": SlowFastConfig(alpha=8, fusion_frames=5),
    "r101": _R101,
    "r101-nonlocal": replace(_R101, temporal_blocks=(3, 4, 6, 3), nonlocal_blocks=(6, 13, 20)),
    # mmaction2's.
    "mmaction2-r50": _mmaction2(SlowFastConfig()),
    "mmaction2-r50-4x16": _mmaction2(SlowFastConfig(alpha=8, fusion_frames=5)),
    "mmaction2-r101": _mmaction2(replace(_R101, fusion_frames=7)),
}

ARCHITECTURE = Architecture(
    config=SlowFastConfig,
    build=SlowFast,
    preset=preset_from(PRESETS, "slowfast"),
    default_preset="r50",
    from_published=from_published,
    published_prefix=PREFIX,
    check_settings=check_settings,
    # Windows are enough for convolutions, and several times cheaper.
    window_share=7 / 12,
    train_batch=24,
)
