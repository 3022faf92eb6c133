"""Packing a run's head with what belongs to it, and installing it in another store."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from cache.split_store import load_split
from cache.store import Store
from cli.main import root
from recognizer_svc.packed_models.description import PackedDetector, read_packed_model
from recognizer_svc.packed_models.model_card import model_card
from recognizer_svc.runs.run_dir import RunDir
from recognizer_svc.runs.verify import verify_run
from recognizer_svc.scoring.predict import BoxesOfKeyFrame, Predictor
from recognizer_svc.training.checkpoint import load_checkpoint
from recognizer_svc.training.distributed import Ranks
from recognizer_svc.training.head_file import load_head_file
from recognizer_svc.training.recipe import load_recipe, parse_recipe
from recognizer_svc.training.run import train_run
from stal_data.errors import ConflictError, InputError, NotFoundError, StalError
from stal_data.labels import LabelMap
from stal_data.sealed import check_seal
from tests.recognizer.conftest import make_run
from tests.recognizer.toy_store import ACAR, LABELS
from tests.services.recognizer_process import RecognizerProcess

FILES = ["README.md", "head.safetensors", "label_map.pbtxt", "model.json", "recipe.yaml"]


@pytest.fixture(scope="module")
def store(toy_store: Store, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store with the run `first`; read only."""
    root = shutil.copytree(toy_store.root, tmp_path_factory.mktemp("packed") / "store")
    assert train_run(make_run(root, "first"), Ranks())
    return Store.open(root)


def flip(path: Path) -> None:
    """Change one bit in the middle."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def call(*words: object) -> str:
    result = CliRunner().invoke(root, [str(word) for word in words])
    if isinstance(result.exception, StalError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


def pack(store: Store, output: Path, *options: object) -> str:
    return call("models", "pack", "first", "--store", store.root, "--output", output, *options)


def scores(store: Store, run: RunDir, checkpoint: str = "latest") -> np.ndarray:
    predictor = Predictor.load(run.root, checkpoint=checkpoint, device="cpu")
    people = [BoxesOfKeyFrame(key=k.key, boxes_N4=k.boxes_N4) for k in load_split(store, "toy", "test").key_frames]
    found = predictor.predict(predictor.open_features(store, "toy", "test"), people)
    return np.concatenate([item.scores_NC for item in found])


@pytest.mark.parametrize("checkpoint", ["latest", "best"])
def test_a_packed_head_is_whole_and_scores_elsewhere_as_here(
    store: Store, toy_store: Store, tmp_path: Path, checkpoint: str
) -> None:
    output = tmp_path / "out" / "first.stal"
    told = pack(store, output, "--checkpoint", checkpoint)
    assert sorted(path.name for path in output.iterdir()) == FILES
    assert all(name in told for name in FILES)
    assert all(check_seal(path.read_bytes(), path.name, "") for path in output.iterdir())
    run = RunDir(store.runs_dir / "first")
    kept = load_checkpoint(run.checkpoint(checkpoint))
    info, state = load_head_file(output / "head.safetensors")
    assert (info.epoch, info.provenance["run"]) == (kept.progress.epochs_done, "first")
    assert all((state[name] == tensor).all() for name, tensor in kept.head_state.items())
    assert load_recipe(output / "recipe.yaml") == kept.recipe
    assert LabelMap.read(output / "label_map.pbtxt") == LABELS
    card = (output / "README.md").read_text()
    assert f"{kept.progress.validation_map:.4f} (toy/test)" in card
    assert all(name in card for name in LABELS.names)

    other = Store.open(shutil.copytree(toy_store.root, tmp_path / "other"))
    run_id = read_packed_model(output).run_id
    for _ in range(2):  # the second time it is there
        assert call("models", "install", output, "--store", other.root) == f"Installed as the run {run_id}.\n"
    installed = RunDir(other.runs_dir / run_id)
    assert verify_run(installed).problems == ()
    assert scores(other, installed).tobytes() == scores(store, run, checkpoint).tobytes()
    words = ["--recipe", output / "recipe.yaml", "--run-id", "imported", "--dataset", "toy", "--split", "test"]
    call("runs", "import", output / "head.safetensors", "--store", other.root, *words)
    assert scores(other, RunDir(other.runs_dir / "imported")).tobytes() == scores(other, installed).tobytes()


UNUSUAL = {
    "boxes in training": ("data.boxes=detected", "a detector's"),
    "neighbouring key frames": ("data.neighbours=2", "2 before and 2 after, 1000 ms apart"),
    "loss": ("loss={kind: focal, alpha: 0.25}", "focal, label_smoothing 0.0, gamma 2.0, alpha 0.25"),
    "forward pass of training": ("training.autocast=bf16", "autocast to bf16"),
    "weights": ("training.ema_decay=0.99", "exponential moving averages, decay 0.99"),
}


def test_a_model_card_says_what_is_off_by_default(store: Store, tmp_path: Path) -> None:
    pack(store, tmp_path / "m")
    model = read_packed_model(tmp_path / "m")
    kept = load_checkpoint(RunDir(store.runs_dir / "first").checkpoint("latest"))

    def card(*settings: str) -> list[str]:
        recipe = parse_recipe(ACAR, ["head={kind: relation}", "loss={kind: sigmoid}", *settings])
        return model_card(model, replace(kept, recipe=recipe), "latest").splitlines()

    plain = card()
    for row, (setting, text) in UNUSUAL.items():
        assert [line for line in card(setting) if line not in plain] == [f"| {row} | {text} |"]


def test_a_service_takes_a_packed_model(store: Store, toy_store: Store, tmp_path: Path) -> None:
    pack(store, tmp_path / "m")
    other = shutil.copytree(toy_store.root, tmp_path / "other")
    service = RecognizerProcess(other, tmp_path, "--model", str(tmp_path / "m")).start()
    try:
        (model,) = json.loads(call("models", "list", "--recognizer", service.address, "--json"))
    finally:
        service.stop()
    assert model["run_id"] == read_packed_model(tmp_path / "m").run_id
    assert model["head"] == "acar"


def test_detector_and_thresholds_are_packed(store: Store, tmp_path: Path) -> None:
    weights, metrics = tmp_path / "person.onnx", tmp_path / "metrics.json"
    weights.write_bytes(b"any file")
    points = dict.fromkeys(LABELS.names) | {"wave": {"score": 0.25}}
    metrics.write_text(json.dumps({"best_f1": points}))
    pack(store, tmp_path / "m", "--detector-weights", weights, "--image-size", "90x160", "--thresholds", metrics)
    model = read_packed_model(tmp_path / "m")
    assert model.thresholds == {2: 0.25}
    assert model.detector == PackedDetector(
        name="person",
        digest="sha256:4e6f0bd258c9d50bcbdcfcceaf7c79860009a82d294994c8c1e970f0ab276fce",
        image_size=(90, 160),
        confidence=0.3,
        overlap=0.7,
        classes=None,
    )
    assert model.detector_file() == tmp_path / "m" / "detector.onnx"
    flip(tmp_path / "m" / "detector.onnx")
    with pytest.raises(InputError, match=r"detector.onnx' is damaged.*models pack"):
        model.detector_file()


def test_what_does_not_belong_to_the_head_is_refused(store: Store, tmp_path: Path) -> None:
    with pytest.raises(ConflictError, match=r"slowfast weights random:7, but run 'first' was trained on .* random:0"):
        pack(store, tmp_path / "m", "--slowfast", "random:7", "--slowfast-preset", "tiny")
    (tmp_path / "slow.safetensors").write_bytes(b"any file")
    with pytest.raises(InputError, match=r"slow.safetensors', but must be a .pt or .onnx file"):
        pack(store, tmp_path / "m", "--detector-weights", tmp_path / "slow.safetensors")
    metrics = tmp_path / "metrics.json"
    metrics.write_text(json.dumps({"best_f1": {"fly": {"score": 0.25}}}))
    with pytest.raises(InputError, match=r"fly.*give the label map that was scored with"):
        pack(store, tmp_path / "m", "--thresholds", metrics)
    assert not (tmp_path / "m").exists()


def test_a_pack_replaces_nothing(store: Store, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    pack(store, tmp_path / "mine")
    before = (tmp_path / "mine" / "README.md").read_bytes()
    with pytest.raises(ConflictError, match="is there already; name a new or empty folder"):
        pack(store, tmp_path / "mine")
    assert (tmp_path / "mine" / "README.md").read_bytes() == before
    other = shutil.copytree(store.root, tmp_path / "store")
    make_run(other, "waiting")
    with pytest.raises(NotFoundError, match="has no finished checkpoint"):
        call("models", "pack", "waiting", "--store", other, "--output", tmp_path / "none")
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize("name", FILES)
def test_one_flipped_bit_is_found(store: Store, tmp_path: Path, name: str) -> None:
    pack(store, tmp_path / "m")
    flip(tmp_path / "m" / name)
    words = ("models", "install", tmp_path / "m", "--store", tmp_path / "new")
    if name == "README.md":  # which nothing reads
        call(*words)
        return
    with pytest.raises(InputError, match=name):
        call(*words)
    assert list((tmp_path / "new" / "runs").glob("[!.]*")) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 2}, "format 2; this version reads 1"),
        ({"thresholds": [1]}, "is damaged"),
        ({"head": f"sha256:{64 * '0'}"}, r"head.safetensors' is not the head that model.json names"),
        ({"feature_spec": {}}, "is damaged"),
        ({"detector": {"name": "person"}}, "is damaged"),
        (None, "is no packed model: it has no model.json.*models pack RUN"),
    ],
)
def test_foreign_folders_are_refused(
    store: Store, tmp_path: Path, change: dict[str, object] | None, message: str
) -> None:
    pack(store, tmp_path / "m")
    path = tmp_path / "m" / "model.json"
    if change is None:
        path.unlink()
    else:
        values = json.loads(path.read_bytes()) | change
        del values["seal"]
        path.write_text(json.dumps(values))
    with pytest.raises(StalError, match=message):
        call("models", "install", tmp_path / "m", "--store", tmp_path / "new")
