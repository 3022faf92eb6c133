"""Small feature sets with made-up numbers and a small split over real frames."""

from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from cache.backbones import BACKBONES
from cache.feature_store import RowIndex
from cache.spec import BackboneSpec, FeatureSpec
from stal_data.dataset import Split
from stal_data.keyframes import AnnotatedKeyFrame, KeyFrame
from stal_data.labels import Label, LabelMap
from stal_data.media.frames import FrameFolders

Layout = Literal["pooled", "full"]
LAYOUTS: tuple[Layout, ...] = ("pooled", "full")
SHAPES = {"slow": (6, 2, 3), "fast": (3, 2, 3), "vit": (5, 4, 5), "vit_moments": (2, 5)}
SHAPES_OF: dict[Layout, dict[str, tuple[int, ...]]] = {
    "pooled": SHAPES,
    "full": {"slow": (6, 2, 2, 3), "fast": (3, 4, 2, 3), "vit": (5, 2, 4, 5), "vit_moments": (2, 5)},
}
SLOWFAST = BackboneSpec(
    kind="slowfast", preset="tiny", config={"widths": (1, 2)}, weights="random:1", trained=False, height=32, width=48
)
VIT = BackboneSpec(
    kind="vit", preset="tiny", config={"depth": 1}, weights="sha256:ab12", trained=True, height=48, width=64
)


def with_layout(spec: FeatureSpec, layout: Layout) -> FeatureSpec:
    """Return the spec with every map's time mean, or with all its time steps."""
    if layout == "pooled":
        return spec
    kept = (replace(item, statistics=BACKBONES[item.kind].all_time_steps()) for item in spec.backbones)
    return replace(spec, backbones=tuple(kept))


def layout_of(spec: FeatureSpec) -> Layout:
    return "full" if any(array.statistic == "full" for array in spec.arrays) else "pooled"


def make_index(num_rows: int, seed: int = 0) -> RowIndex:
    rng = np.random.default_rng(seed)
    starts = rng.integers(1, 1000, num_rows)
    return RowIndex(
        key_frames=tuple(KeyFrame(f"vidéo {row // 4}", 1000 * (row % 4)) for row in range(num_rows)),
        windows_K2=np.stack([starts, starts + 64], axis=1),
        sources_K=rng.integers(0, 2**64, num_rows, dtype=np.uint64),
    )


def make_features(num_rows: int, seed: int = 0, layout: Layout = "pooled") -> dict[str, NDArray[np.float32]]:
    """Return float32 features; row 0 is all zeros, which must not be taken for a row that was never written."""
    rng = np.random.default_rng(seed)
    shapes = SHAPES_OF[layout].items()
    arrays = {name: rng.standard_normal((num_rows, *shape), dtype=np.float32) for name, shape in shapes}
    for values in arrays.values():
        values[0] = 0
    return arrays


def make_split(root: Path, *, videos: int = 3, seconds: int = 3, label: int = 1) -> Split:
    """Return a split over the frames: one person a key frame, the annotated window is the video's second."""
    key_frames = tuple(
        AnnotatedKeyFrame(
            key=KeyFrame(f"v{video}", 1000 * second),
            window=(1 + 25 * second, 26 + 25 * second),
            boxes_N4=np.array([[0.1, 0.2, 0.5, 0.9]], np.float32),
            labels=(frozenset({label}),),
            persons=(7,),
        )
        for video in range(videos)
        for second in range(seconds)
    )
    return Split(
        dataset="street",
        name="train",
        key_frames=key_frames,
        exclusions=frozenset({KeyFrame("v0", 99000)}),
        annotated=True,
        label_map=LabelMap([Label(1, "walk", "PERSON_MOVEMENT"), Label(2, "greet", "PERSON_INTERACTION")]),
        media=FrameFolders(root),
    )
