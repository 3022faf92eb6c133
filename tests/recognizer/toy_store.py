"""A store small enough to train on in a second, with actions that one person shows and actions that need another."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cache.feature_store import FeatureWriter, RowIndex
from cache.spec import BackboneSpec, FeatureSpec
from cache.split_store import publish_split
from cache.store import Store
from stal_data.dataset import Split
from stal_data.keyframes import AnnotatedKeyFrame, KeyFrame
from stal_data.labels import Label, LabelMap

LABELS = LabelMap(
    [
        Label(1, "stand", "PERSON_MOVEMENT"),
        Label(2, "wave", "PERSON_MOVEMENT"),
        # These two look the same; they differ in whether somebody else waves.
        Label(3, "watch a waver", "PERSON_INTERACTION"),
        Label(4, "look around", "PERSON_MOVEMENT"),
    ]
)
ROWS, COLUMNS = 8, 12
VIT_FRAMES = 2
PLACES = [(0.0, 0.0, 0.25, 0.5), (0.35, 0.1, 0.6, 0.6), (0.7, 0.3, 0.95, 0.9)]
"""Boxes that do not overlap, so that each detection has one ground-truth box to itself."""


def toy_spec(*, vit: bool = True, view: str = "identity", **fields: object) -> FeatureSpec:
    slowfast = BackboneSpec(
        kind="slowfast", preset="toy", config={}, weights="random:0", trained=False, height=64, width=96
    )
    config = {"num_frames": 32, "tubelet": [16, 8, 8]}
    transformer = BackboneSpec(
        kind="vit", preset="toy", config=config, weights="random:0", trained=False, height=80, width=112
    )
    backbones = (slowfast, transformer) if vit else (slowfast,)
    return FeatureSpec(**{"backbones": backbones, "decoder": "png", "view": view, "dtype": "float16", **fields})


@dataclass(frozen=True)
class Scene:
    key_frame: AnnotatedKeyFrame
    slow: np.ndarray
    fast: np.ndarray
    vit: np.ndarray
    moments: np.ndarray


def make_scene(index: int, seed: int) -> Scene:
    """One to three people; every seventh key frame has none."""
    random = np.random.default_rng([seed, index])
    count = 0 if index % 7 == 6 else int(random.integers(1, 4))
    kinds = random.integers(0, 3, count)
    places = [PLACES[place] for place in sorted(random.permutation(3)[:count])]
    slow = random.normal(0, 0.3, (6, ROWS, COLUMNS))
    fast = random.normal(0, 0.3, (3, ROWS, COLUMNS))
    full = random.normal(0, 0.3, (VIT_FRAMES, 5, ROWS + 2, COLUMNS + 2)) + 0.5
    labels = []
    for person, (kind, (x1, y1, x2, y2)) in enumerate(zip(kinds, places, strict=True)):
        for features, rows, columns in ((slow, ROWS, COLUMNS), (full, ROWS + 2, COLUMNS + 2)):
            region = (
                slice(int(y1 * rows), int(np.ceil(y2 * rows))),
                slice(int(x1 * columns), int(np.ceil(x2 * columns))),
            )
            features[(..., int(kind), *region)] += 3
        waver = any(other == 1 for place, other in enumerate(kinds) if place != person)
        labels.append(frozenset({int(kind) + 1 if kind < 2 else 3 if waver else 4}))
    return Scene(
        key_frame=AnnotatedKeyFrame(
            key=KeyFrame(f"video{index // 5}", 1000 * (index % 5)),
            window=(1 + index * 25, 65 + index * 25),
            boxes_N4=np.array(places, dtype=np.float32).reshape(-1, 4),
            labels=tuple(labels),
            persons=tuple(range(count)),
        ),
        slow=slow,
        fast=fast,
        vit=full.mean(axis=0),
        moments=np.stack([full.mean(axis=(0, 2, 3)), np.square(full).mean(axis=(0, 2, 3))]),
    )


def write_split(
    store: Store,
    name: str,
    scenes: list[Scene],
    *,
    views: tuple[str, ...],
    vit: bool = True,
    dataset: str = "toy",
    labels: LabelMap = LABELS,
    **spec: object,
) -> None:
    """spec: fields of the feature spec that are others than `toy_spec` has."""
    scenes = sorted(scenes, key=lambda scene: scene.key_frame.key)
    publish_split(
        store,
        Split(
            dataset=dataset,
            name=name,
            key_frames=tuple(scene.key_frame for scene in scenes),
            exclusions=frozenset(),
            annotated=True,
            label_map=labels,
            media=None,  # the features are there already
        ),
    )
    index = RowIndex(
        key_frames=tuple(scene.key_frame.key for scene in scenes),
        windows_K2=np.array([scene.key_frame.window for scene in scenes], dtype=np.int64),
        sources_K=np.arange(len(scenes), dtype=np.uint64),
    )
    for view in views:
        step = -1 if view == "hflip" else 1
        arrays = {
            "slow": np.stack([scene.slow[..., ::step] for scene in scenes]).astype(np.float32),
            "fast": np.stack([scene.fast[..., ::step] for scene in scenes]).astype(np.float32),
        }
        if vit:
            arrays["vit"] = np.stack([scene.vit[..., ::step] for scene in scenes]).astype(np.float32)
            arrays["vit_moments"] = np.stack([scene.moments for scene in scenes]).astype(np.float32)
        writer = FeatureWriter.open(
            store,
            dataset=dataset,
            split=name,
            spec=toy_spec(vit=vit, view=view, **spec),
            index=index,
            shapes={array: values.shape[1:] for array, values in arrays.items()},
            rows_per_shard=16,
        )
        for shard in writer.pending():
            rows = list(writer.manifest.rows_of(shard))
            with writer.claim(shard) as claim:
                writer.write_shard(claim, {array: values[rows] for array, values in arrays.items()})


def make_store(
    root: Path, *, train: int = 42, test: int = 21, vit: bool = True, views: tuple[str, ...] = ("identity", "hflip")
) -> Store:
    """A store with the data set `toy`: so many key frames to train and to test on, a seventh of them without people."""
    store = Store.open(root, create=True)
    write_split(store, "train", [make_scene(index, seed=0) for index in range(train)], views=views, vit=vit)
    write_split(store, "test", [make_scene(index, seed=1) for index in range(test)], views=("identity",), vit=vit)
    return store


ACAR = """
name: toy-acar
data: {dataset: toy, train_split: train}
validation: {split: test}
head: {kind: acar, reduce_channels: 16, context_channels: 12, depth: 1, dropout: 0.1}
loss: {kind: sigmoid}
optimizer: {kind: adamw, learning_rate: 0.01}
schedule: {kind: cosine, warmup_epochs: 0.5}
training: {epochs: 2, batch_clips: 8, log_every_steps: 2}
"""
