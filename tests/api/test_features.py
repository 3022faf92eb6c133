"""Cached key frames of a split, for modules of one's own."""

import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

import stal
from cache.feature_store import open_feature_set, reset_shard
from tests.recognizer.toy_store import LABELS, make_scene, make_store, toy_spec

ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "grpc", "pandas", "numba", "ultralytics", "av", "timm")


def run_python(code: str) -> str:
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def test_importing_loads_nothing_heavy_and_reading_features_needs_none_of_it(store: stal.Store) -> None:
    code = f"""
import sys, stal
print([name for name in (*{HEAVY!r}, "numpy", "zarr") if name in sys.modules])
features = stal.open_store({str(store.folders.root)!r}).features("toy", "test")
print(features.batch([0, 1]).features["slow"].shape, [name for name in {HEAVY!r} if name in sys.modules])
print(all(getattr(stal, name) is not None for name in dir(stal)))
"""
    assert run_python(code).splitlines() == ["[]", "(2, 6, 8, 12) []", "True"]


def test_a_name_that_is_not_there_is_answered_with_those_that_are() -> None:
    with pytest.raises(AttributeError, match=r"no attribute 'open'; it has .*open_store"):
        stal.open  # noqa: B018


def test_a_key_frame_has_its_arrays_boxes_and_targets(store: stal.Store) -> None:
    features = store.features("toy", "test")
    scenes = sorted((make_scene(index, seed=1) for index in range(21)), key=lambda scene: scene.key_frame.key)
    assert features.shapes == {"slow": (6, 8, 12), "fast": (3, 8, 12), "vit": (5, 10, 14), "vit_moments": (2, 5)}
    assert len(features) == len(scenes)
    for sample, scene in zip(features, scenes, strict=True):
        assert sample.key_frame == scene.key_frame.key
        assert np.array_equal(sample.features["slow"], scene.slow.astype(np.float32).astype(np.float16))
        assert np.array_equal(sample.boxes_N4, scene.key_frame.boxes_N4)
        names = [{LABELS.names[column] for column in np.flatnonzero(row)} for row in sample.targets_NC]
        assert names == [{LABELS.names[label - 1] for label in ids} for ids in scene.key_frame.labels]
    assert features[-1].key_frame == features.key_frames[-1]
    with pytest.raises(IndexError):
        features[len(features)]


def test_a_loader_gives_the_batches_of_numpy_as_tensors(store: stal.Store) -> None:
    features = store.features("toy", "test")
    loader = DataLoader(features, batch_size=8, collate_fn=stal.collate)
    empty = next(index for index, sample in enumerate(features) if not len(sample.boxes_N4))
    assert empty < 8
    for start, tensors in zip(range(0, 21, 8), loader, strict=True):
        arrays = features.batch(range(start, min(start + 8, 21)))
        assert tensors.key_frames == arrays.key_frames == features.key_frames[start : start + 8]
        for name, values in arrays.features.items():
            assert tensors.features[name].dtype is torch.float32
            assert np.array_equal(tensors.features[name].numpy(), values)
        for name in ("boxes_N4", "clip_of_N", "targets_NC"):
            assert np.array_equal(getattr(tensors.to("cpu"), name).numpy(), getattr(arrays, name))
        for place, key in enumerate(arrays.key_frames):
            mine = arrays.boxes_N4[arrays.clip_of_N == place]
            assert np.array_equal(mine, features[features.key_frames.index(key)].boxes_N4)


def test_worker_processes_may_have_a_copy(store: stal.Store) -> None:
    features = store.features("toy", "test")
    copy = pickle.loads(pickle.dumps(features))
    assert np.array_equal(copy[3].features["vit"], features[3].features["vit"])


def test_scores_of_a_batch_go_back_to_their_key_frames(store: stal.Store) -> None:
    batch = store.features("toy", "test").batch([0, 1, 2])
    scores_NC = torch.rand(len(batch.boxes_N4), LABELS.num_classes, requires_grad=True)
    scored = batch.scored(scores_NC)
    assert [item.key for item in scored] == list(batch.key_frames)
    assert np.array_equal(np.concatenate([item.boxes_N4 for item in scored]), batch.boxes_N4)
    assert np.array_equal(np.concatenate([item.scores_NC for item in scored]), scores_NC.detach().numpy())
    with pytest.raises(stal.StalError, match=r"scores_NC has shape \[1, 4\], but must be \[\d+, classes\]"):
        batch.scored(scores_NC[:1])
    with pytest.raises(stal.StalError, match=r"of key frame video0,0000 has shape \[\d, 3\], but must be \[\d, 4\]"):
        stal.Predictions(label_map=LABELS, key_frames=batch.scored(scores_NC[:, :3]))


def test_what_cannot_be_meant_is_refused(store: stal.Store) -> None:
    with pytest.raises(stal.StalError, match="view 'hflip'"):
        store.features("toy", "train", feature_set=toy_spec(view="hflip").id)
    with pytest.raises(stal.StalError, match="no features for toy/nowhere"):
        store.features("toy", "nowhere")
    with pytest.raises(stal.StalError, match="batch of 0 key frames"):
        store.features("toy", "train").batch([])


def test_key_frames_that_are_not_computed_are_refused_at_once(tmp_path: Path) -> None:
    folders = make_store(tmp_path / "store", views=("identity",))
    reset_shard(open_feature_set(folders, "toy", "train").path, 1)
    with pytest.raises(stal.StalError, match="lacks 16 of 42 key frames, the first is video3,0001; finish it"):
        stal.open_store(folders.root).features("toy", "train")
