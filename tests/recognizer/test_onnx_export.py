"""Packed models as ONNX files: what onnxruntime makes of them against torch, and the models that are refused."""

import json
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from click.testing import CliRunner
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor, nn

from cache import onnx_files
from cache.backbones.load import load_backbone
from cache.feature_store import open_feature_set
from cache.onnx_files import write_onnx
from cache.roi_align import roi_align
from cache.split_store import load_split
from cache.store import Store
from cli.main import root as stal_cli
from recognizer_svc.heads.relation.model import RelationHead
from recognizer_svc.packed_models.description import PackedModel, read_packed_model
from recognizer_svc.packed_models.onnx_export import export_onnx
from recognizer_svc.packed_models.pack import Belongings, pack_run
from recognizer_svc.runs.run_dir import RunDir
from recognizer_svc.scoring.predict import BoxesOfKeyFrame, Predictor
from recognizer_svc.training.distributed import Ranks
from recognizer_svc.training.run import train_run
from stal_data.clips import clip_frames, resolve_window
from stal_data.dataset import Dataset
from stal_data.errors import ConflictError, InputError
from stal_data.preprocess import preprocess_clip
from tests.cli.inference_store import make_store, save_weights, train
from tests.recognizer.conftest import make_run
from tests.recognizer.toy_store import LABELS

Arrays = Mapping[str, NDArray[np.float32]]
TOLERANCE = 1e-6
HEADS = {
    "acar": [],
    "acar-all": [
        "head={kind: acar, reduce_channels: 16, context_channels: 12, depth: 2, linear_skip: true, standardise: true,"
        " pooling: mean_max}",
        "loss={kind: pose_softmax, num_poses: 2}",
    ],
    "linear": ["head={kind: linear}"],
    "pairs": ["head={kind: relation, channels: 8, linear_skip: true}"],
    "attention": ["head={kind: relation, channels: 8, relation: attention}"],
    "alone": ["head={kind: relation, channels: 8, relation: none, geometry: false}"],
}


@pytest.fixture(scope="module")
def packed(toy_store: Store, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Train a head on the toy store, once, and pack it."""
    root = shutil.copytree(toy_store.root, tmp_path_factory.mktemp("onnx") / "store")

    def make(name: str, settings: Sequence[str]) -> Path:
        output = root / f"{name}.packed"
        if not output.exists():
            run = make_run(root, name, [*settings, "training.epochs=1"])
            assert train_run(run, Ranks())
            pack_run(run, output, Belongings())
        return output

    return make


def session_of(path: Path) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


def run(path: Path, arrays: Arrays) -> dict[str, NDArray[np.float32]]:
    """All outputs, by name; arrays that the file does not take are left out."""
    session = session_of(path)
    names = [item.name for item in session.get_inputs()]
    results = session.run(None, {name: arrays[name] for name in names})
    return dict(zip([item.name for item in session.get_outputs()], results, strict=True))


def random_boxes(count: int) -> NDArray[np.float32]:
    corners_N22 = np.random.default_rng(count).random((count, 2, 2), dtype=np.float32)
    return np.sort(corners_N22, axis=1).reshape(-1, 4)


@pytest.mark.parametrize("name", HEADS)
def test_a_head_scores_stored_features_as_the_predictor_does(
    packed: Callable[..., Path], toy_store: Store, tmp_path: Path, name: str
) -> None:
    folder = packed(name, HEADS[name])
    ((file, difference),) = export_onnx(read_packed_model(folder), tmp_path / "out").items()
    assert difference < TOLERANCE
    assert [path.name for path in (tmp_path / "out").iterdir()] == [file] == ["head.onnx"]
    predictor = Predictor.load(folder.parent / "runs" / name, device="cpu")
    features = predictor.open_features(toy_store, "toy", "test")
    keys = [item.key for item in load_split(toy_store, "toy", "test").key_frames][:5]
    counts = (0, 1, 2, 7, 40)
    people = [BoxesOfKeyFrame(key=key, boxes_N4=random_boxes(n)) for key, n in zip(keys, counts, strict=True)]
    for item, expected in zip(people, predictor.predict(features, people), strict=True):
        stored = features.read([features.row_of(item.key)])
        arrays = {name: values.astype(np.float32) for name, values in stored.items()}
        scores_NC = run(tmp_path / "out" / "head.onnx", {**arrays, "boxes": item.boxes_N4})["scores"]
        assert scores_NC.shape == (len(item.boxes_N4), LABELS.num_classes)
        np.testing.assert_allclose(scores_NC, expected.scores_NC, atol=TOLERANCE)


def test_the_file_says_what_it_is_and_equal_models_give_equal_files(
    packed: Callable[..., Path], tmp_path: Path
) -> None:
    model = read_packed_model(packed("pairs", HEADS["pairs"]))
    for name in ("one", "two"):
        told = CliRunner().invoke(stal_cli, ["models", "export", str(model.folder), "--output", str(tmp_path / name)])
        assert told.exit_code == 0, told.output
    assert re.search(r"Wrote .*head.onnx: differs from torch by \S+ \(limit", told.output)
    assert "Without slowfast.onnx" in told.output
    assert "Without vit.onnx" in told.output
    assert (tmp_path / "one" / "head.onnx").read_bytes() == (tmp_path / "two" / "head.onnx").read_bytes()
    session = session_of(tmp_path / "one" / "head.onnx")
    about = session.get_modelmeta().custom_metadata_map
    assert (about["run"], about["digest"], about["layout"]) == ("pairs", model.head, "key_frames")
    assert [label["name"] for label in json.loads(about["labels"])] == list(LABELS.names)
    assert about["feature_spec"] == model.feature_spec.canonical()
    assert {item.name: item.shape for item in session.get_inputs()} == {
        "boxes": ["people", 4],
        "slow": [1, 6, 8, 12],
        "fast": [1, 3, 8, 12],
        "vit": [1, 5, 10, 14],
    }


@pytest.fixture(scope="module")
def with_backbones(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, PackedModel]:
    """A store with features of decoded clips, and a head on them that was packed with its backbones."""
    folder = tmp_path_factory.mktemp("backbones")
    store = Store.open(make_store(folder))
    files = [folder / f"{kind}.safetensors" for kind in ("slowfast", "vit")]
    loaded = [(path, load_backbone(path.stem, weights=str(path))) for path in files]
    pack_run(RunDir(store.runs_dir / "first"), folder / "packed", Belongings(backbones=loaded))
    return store, read_packed_model(folder / "packed")


def test_clips_become_features_and_scores_without_torch(
    with_backbones: tuple[Store, PackedModel], tmp_path: Path
) -> None:
    store, model = with_backbones
    files = export_onnx(model, tmp_path / "out")
    assert list(files) == ["head.onnx", "slowfast.onnx", "vit.onnx"]
    assert max(files.values()) < 1e-5
    split = Dataset.open(store.root.parent / "data").split("train")
    item = split.key_frames[0]
    frames_THW3 = split.media.read(item.key.video, clip_frames(resolve_window(item, split.media.info(item.key.video))))
    found: dict[str, NDArray[np.float32]] = {"boxes": item.boxes_N4}
    for spec in model.feature_spec.backbones:
        clip_3THW = preprocess_clip(frames_THW3, spec.height, spec.width)
        found |= run(tmp_path / "out" / f"{spec.kind}.onnx", {"clip": clip_3THW[None]})
    assert list(found) == ["boxes", "slow", "fast", "vit"]
    predictor = Predictor.load(store.runs_dir / "first", device="cpu")
    features = predictor.open_features(store, split.dataset, "train")
    stored = features.read([features.row_of(item.key)])
    for name in ("slow", "fast", "vit"):  # which are stored in float16
        np.testing.assert_allclose(found[name], stored[name].astype(np.float32), rtol=2e-3, atol=1e-4)
    (expected,) = predictor.predict(features, [BoxesOfKeyFrame(key=item.key, boxes_N4=item.boxes_N4)])
    assert len(expected.scores_NC) == 2
    scores_NC = run(tmp_path / "out" / "head.onnx", found)["scores"]
    np.testing.assert_allclose(scores_NC, expected.scores_NC, atol=1e-3)


def test_a_backbone_gives_pooled_statistics(tmp_path: Path) -> None:
    store = Store.open(make_store(tmp_path, "--statistics", "fast=mean,slope/2x3/int8"))
    train(store.root, "pooled", "data.statistics=[mean, slope/2x3]", "data.streams=[slowfast]", seed=0)
    loaded = load_backbone("slowfast", weights=str(tmp_path / "slowfast.safetensors"))
    weights = [(tmp_path / "slowfast.safetensors", loaded)]
    pack_run(RunDir(store.runs_dir / "pooled"), tmp_path / "packed", Belongings(backbones=weights))
    files = export_onnx(read_packed_model(tmp_path / "packed"), tmp_path / "out")
    assert files.keys() == {"head.onnx", "slowfast.onnx"}
    split = Dataset.open(tmp_path / "data").split("train")
    item = split.key_frames[0]
    frames_THW3 = split.media.read(item.key.video, clip_frames(resolve_window(item, split.media.info(item.key.video))))
    clip_3THW = preprocess_clip(frames_THW3, loaded.spec.height, loaded.spec.width)
    found = run(tmp_path / "out" / "slowfast.onnx", {"clip": clip_3THW[None]})
    features = open_feature_set(store, split.dataset, "train")
    stored = features.read([features.row_of(item.key)])
    scale = stored["fast_slope_2x3_scale"].astype(np.float32)[..., None, None]
    assert found.keys() == {"slow", "fast", "fast_slope_2x3"}
    assert (np.abs(found["fast_slope_2x3"] - stored["fast_slope_2x3"] * scale) <= 0.51 * scale).all()


def test_numbers_beyond_the_format_go_to_a_second_file(
    with_backbones: tuple[Store, PackedModel], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, model = with_backbones
    export_onnx(model, tmp_path / "whole")
    monkeypatch.setattr(onnx_files, "MAX_BYTES", 1000)
    for name in ("one", "two"):
        export_onnx(model, tmp_path / name)
    files = {path.name: path.read_bytes() for path in (tmp_path / "one").iterdir()}
    assert {"vit.onnx", "vit.onnx.data"} < files.keys()
    assert files == {path.name: path.read_bytes() for path in (tmp_path / "two").iterdir()}
    spec = model.feature_spec.backbone("vit")
    clip = {"clip": np.random.default_rng(0).random((1, 3, 32, spec.height, spec.width), dtype=np.float32)}
    one, whole = (run(tmp_path / name / "vit.onnx", clip) for name in ("one", "whole"))
    assert one["vit"].tobytes() == whole["vit"].tobytes()


class _Regions(nn.Module):
    def forward(self, map_BCHW: Tensor, rois_N5: Tensor) -> Tensor:
        return roi_align(map_BCHW, rois_N5, 3)


@pytest.fixture(scope="module")
def regions(tmp_path_factory: pytest.TempPathFactory) -> onnxruntime.InferenceSession:
    path = tmp_path_factory.mktemp("regions") / "regions.onnx"
    inputs = {"map": torch.zeros(2, 3, 8, 12), "rois": torch.zeros(2, 5)}
    write_onnx(path, _Regions(), inputs, ["out"], free={"rois": "n", "out": "n"}, metadata={})
    return session_of(path)


corner = st.one_of(st.floats(-20, 30, width=32), st.integers(-2, 14).map(float))


@given(rois=st.lists(st.tuples(st.sampled_from([0.0, 1.0]), corner, corner, corner, corner), max_size=8))
@examples(deadline=None, max_examples=200)
def test_regions_are_those_of_torchvision_for_any_boxes(
    regions: onnxruntime.InferenceSession, rois: list[tuple[float, ...]]
) -> None:
    map_BCHW = np.random.default_rng(0).random((2, 3, 8, 12), dtype=np.float32)
    rois_N5 = np.array(rois, np.float32).reshape(-1, 5)
    (found,) = regions.run(None, {"map": map_BCHW, "rois": rois_N5})
    np.testing.assert_array_equal(found, roi_align(torch.from_numpy(map_BCHW), torch.from_numpy(rois_N5), 3).numpy())


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("neighbours", ["data.neighbours=1"], r"\(data\.neighbours\); export one that was trained without"),
        ("bank", ["data.bank_s=1"], r"\(data\.bank_s\); export one that was trained without"),
    ],
)
def test_a_head_that_looks_around_is_refused(
    packed: Callable[..., Path], tmp_path: Path, name: str, settings: list[str], message: str
) -> None:
    folder = packed(name, [*HEADS["pairs"], *settings])
    with pytest.raises(InputError, match=message):
        export_onnx(read_packed_model(folder), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_differs_from_torch_is_not_written(
    packed: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = read_packed_model(packed("pairs", HEADS["pairs"]))
    monkeypatch.setattr(RelationHead, "_relations_of_one_clip", lambda _head, own_ND, _boxes_N4: own_ND)
    with pytest.raises(ConflictError, match=r"head.onnx differ from torch's by .*nothing was written"):
        export_onnx(model, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_other_refusals(with_backbones: tuple[Store, PackedModel], tmp_path: Path) -> None:
    _, model = with_backbones
    autocast = replace(model, feature_spec=replace(model.feature_spec, autocast="bf16"))
    with pytest.raises(InputError, match=r"features are of autocast bf16.*float32; pack the run without backbones"):
        export_onnx(autocast, tmp_path / "out")
    other = shutil.copytree(model.folder, tmp_path / "other")
    save_weights(other / "vit.safetensors", seed=1)
    with pytest.raises(ConflictError, match=r"vit.safetensors' holds sha256:\w+, but the head takes sha256:"):
        export_onnx(read_packed_model(other), tmp_path / "out")
    with pytest.raises(ConflictError, match="is there already; name a new or empty folder"):
        export_onnx(model, other)
    assert [path.name for path in tmp_path.iterdir()] == ["other"]
