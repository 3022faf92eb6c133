"""Shapes and batches of SlowFast's and the ViT's maps, short to write."""

from torch import Tensor

from cache.backbones import BACKBONES
from cache.statistics import STATISTICS, array_name
from recognizer_svc.heads.batch import FeatureShapes

Shape = tuple[int, int, int]


def feature_shapes(
    *, slow: Shape | None = None, fast: Shape | None = None, vit: Shape | None = None, vit_frames: int = 0
) -> FeatureShapes:
    """Channels, rows and columns of each map. vit_frames: time steps of the ViT's grid."""
    maps = {"slow": slow, "fast": fast, "vit": vit}
    arrays: dict[str, tuple[int, ...]] = {name: shape for name, shape in maps.items() if shape is not None}
    if vit is not None:
        arrays["vit_moments"] = (2, vit[0])
    return FeatureShapes(arrays=arrays, time_steps={"vit": vit_frames} if vit is not None else {})


def present(**arrays: Tensor | None) -> dict[str, Tensor]:
    return {name: values for name, values in arrays.items() if values is not None}


def kept(**maps: Tensor) -> dict[str, Tensor]:
    """What precompute keeps of full-time maps [B,C,T,H,W] by default, float32."""
    names = {name: statistics for backbone in BACKBONES.values() for name, statistics in backbone.maps.items()}
    return {
        array_name(name, statistic): STATISTICS[statistic].compute(values)
        for name, values in maps.items()
        for statistic in names[name]
    }
