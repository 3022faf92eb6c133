"""`stal-cli infer --model`: a packed model is enough; and people who are followed between key frames."""

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest

from cli.workflow.predictions import read_predictions
from recognizer_svc.packed_models.description import read_packed_model
from recognizer_svc.service.server import RecognizerConfig, RecognizerService
from stal_data.errors import InputError, StalError
from stal_data.labels import LabelMap
from svc_common.metrics import Metrics
from tests.cli.inference_store import BACKBONES, Inference, in_this_process, make_store, save_weights, stal_cli
from tests.data.videos import constant, write_video
from tests.detector.replica import ReplicaService
from tests.services.echo import in_a_thread


@pytest.fixture(scope="module")
def made_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_store(tmp_path_factory.mktemp("made"))


@pytest.fixture(scope="module")
def model(made_store: Path) -> Path:
    """Packed with everything; any file is the detector, as tests put a service in its place."""
    label_map = LabelMap.read(made_store / "runs" / "first" / "label_map.pbtxt")
    return pack(made_store, "first.stal", dict.fromkeys(label_map.names, 0.9))


def pack(made_store: Path, name: str, thresholds: Mapping[str, float]) -> Path:
    weights, metrics = made_store.parent / "person.pt", made_store.parent / "metrics.json"
    weights.write_text("one")
    metrics.write_text(json.dumps({"best_f1": {label: {"score": score} for label, score in thresholds.items()}}))
    words = [word for kind in BACKBONES for word in (f"--{kind}", made_store.parent / f"{kind}.safetensors")]
    words += ["--detector-weights", weights, "--confidence", "0.4", "--thresholds", metrics]
    output = made_store.parent / name
    stal_cli("models", "pack", "first", "--store", made_store, "--output", output, *words)
    return output


def test_the_recognizer_holds_the_backbones_of_a_model_and_says_what_is_missing(
    model: Path, made_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configs = []

    async def serve(_server: object, config: RecognizerConfig) -> None:
        configs.append(config)

    monkeypatch.setattr("recognizer_svc.service.server.serve", serve)
    part = shutil.copytree(model, tmp_path / "part.stal")
    (part / "vit.safetensors").unlink()
    words = ("serve", "recognizer", "--store", tmp_path / "store")
    assert "Note" not in stal_cli(*words, "--model", model)
    missing = stal_cli(*words, "--model", part)
    assert "does not hold the weights of vit (tiny, sha256:" in missing
    assert "it scores cached features only. Name their file with --backbone vit:tiny=FILE." in missing
    assert "Note" not in stal_cli(*words, "--model", part, "--vit", made_store.parent / "vit.safetensors")
    held = [sorted(load().spec.kind for load in config.backbones) for config in configs]
    assert held == [["slowfast", "vit"], ["slowfast"], ["slowfast", "vit"]]


def test_the_recognizer_of_a_model_tells_its_thresholds(
    made_store: Path, street: Path, stages: Inference, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configs = []

    async def serve(_server: object, config: RecognizerConfig) -> None:
        configs.append(config)

    monkeypatch.setattr("recognizer_svc.service.server.serve", serve)
    names = LabelMap.read(made_store / "runs" / "first" / "label_map.pbtxt").names
    model = pack(made_store, "one.stal", dict.fromkeys(names, 0.999) | {names[0]: 0.0})
    stal_cli("serve", "recognizer", "--store", tmp_path / "store", "--model", model, "--device", "cpu")
    with in_a_thread(ReplicaService()) as port, in_a_thread(RecognizerService(configs[0], Metrics())) as recognizer:
        detector, services = ("--detector", f"127.0.0.1:{port}"), ("--recognizer", f"127.0.0.1:{recognizer}")

        def actions(folder: str, *words: object) -> list[set[str]]:
            stal_cli("infer", street, *detector, *words, "--no-video", "--output", tmp_path / folder)
            lines = (tmp_path / folder / "actions.jsonl").read_text().splitlines()
            return [set(json.loads(line)["actions"]) for line in lines]

        assert actions("there", *services) == actions("here", "--model", model) == 3 * [{names[0]}]
        assert actions("there", *services, "--min-score", "0.999") == 3 * [set()]


@pytest.fixture
def street(tmp_path: Path) -> Path:
    return write_video(tmp_path / "street.mp4", constant(25, 75))


@pytest.fixture
def stages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Inference]:
    """Runs all commands in this process and notes the stages."""
    with in_this_process(tmp_path / "unused", monkeypatch) as inference:
        yield inference


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The words with which the private detector is started; a service stands in for it."""
    words: list[str] = []
    with in_a_thread(ReplicaService()) as port:
        service = nullcontext(SimpleNamespace(address=f"127.0.0.1:{port}"))
        monkeypatch.setattr(
            "cli.workflow.detect_stage.Service", lambda _name, _root, *rest: words.extend(rest) or service
        )
        yield words


def test_a_model_is_enough_and_gives_what_its_run_gives(
    model: Path, made_store: Path, street: Path, stages: Inference, started: list[str], tmp_path: Path
) -> None:
    out, again = tmp_path / "out", tmp_path / "again"
    stal_cli("infer", street, "--model", model, "--output", out)
    assert started == ["--weights", str(model / "detector.pt"), "--confidence", "0.4", "--overlap", "0.7"]
    assert stages.ran == ["dataset", "detect", "precompute", "predict"]
    assert (out / "store" / "runs" / read_packed_model(model).run_id / "state.json").is_file()
    words = [word for kind in BACKBONES for word in (f"--{kind}", made_store.parent / f"{kind}.safetensors")]
    words += ["--detector-weights", made_store.parent / "person.pt", "--min-score", "0.9"]
    store = shutil.copytree(made_store, tmp_path / "store")
    stal_cli("infer", street, "--store", store, "--run", "first", *words, "--output", again)
    for name in ("predictions.csv", "actions.jsonl", "coco.json"):
        assert (out / name).read_bytes() == (again / name).read_bytes(), name
    scores = [
        score for line in (out / "actions.jsonl").read_text().splitlines() for score in json.loads(line)["actions"]
    ]
    stages.ran.clear()
    stal_cli("infer", street, "--model", model, "--output", out, "--min-score", "0")
    assert stages.ran == []
    more = [score for line in (out / "actions.jsonl").read_text().splitlines() for score in json.loads(line)["actions"]]
    assert len(more) > len(scores)


def test_what_the_model_lacks_is_asked_for(
    model: Path, made_store: Path, street: Path, stages: Inference, started: list[str], tmp_path: Path
) -> None:
    bare = shutil.copytree(model, tmp_path / "bare")
    (bare / "vit.safetensors").unlink()
    words = ("infer", street, "--model", bare, "--output", tmp_path / "out")
    with pytest.raises(InputError, match=r"does not hold the weights of vit \(tiny, sha256:.*--backbone vit:tiny=FILE"):
        stal_cli(*words)
    (bare / "detector.pt").unlink()
    given = ("--vit", made_store.parent / "vit.safetensors")
    with pytest.raises(InputError, match=r"its detector 'person' \(sha256:.*--detector-weights"):
        stal_cli(*words, *given)
    with pytest.raises(InputError, match="sees slowfast, vit, not timm"):
        stal_cli(*words, "--backbone", "timm:resnet18=random:0", "--detector-weights", made_store.parent / "person.pt")
    assert not (tmp_path / "out").exists()
    other = tmp_path / "other.pt"
    other.write_text("two")
    said = stal_cli(*words, *given, "--detector-weights", other, "--confidence", "0.2")
    assert "other.pt is not the detector 'person' of the model" in said
    assert started == ["--weights", str(other), "--confidence", "0.2", "--overlap", "0.7"]
    save_weights(tmp_path / "vit.safetensors", seed=5)
    with pytest.raises(StalError, match="vit"):
        stal_cli(*words, "--vit", tmp_path / "vit.safetensors", "--detector-weights", other)


def test_tracked_people_have_ids_and_move_between_key_frames(
    model: Path, street: Path, stages: Inference, started: list[str], tmp_path: Path
) -> None:
    pytest.importorskip("trackers")
    out = tmp_path / "out"
    stal_cli("infer", street, "--model", model, "--track", "--output", out)
    assert stages.ran == ["dataset", "detect", "precompute", "predict"]
    found = read_predictions(out / "predictions.csv", min_score=0)
    assert {person.track for people in found.values() for person in people} - {-1}
    run_id = read_packed_model(model).run_id
    words = ["--label-map", out / "store" / "runs" / run_id / "label_map.pbtxt", "--min-score", "0.9"]
    stal_cli("segments", out / "predictions.csv", *words, "--output", tmp_path / "actions.csv")
    assert (out / "actions.csv").read_bytes() == (tmp_path / "actions.csv").read_bytes()
    stages.ran.clear()
    stal_cli("infer", street, "--model", model, "--output", out)
    assert stages.ran == ["detect", "predict"], "other proposals, without tracks"
    assert not (out / "actions.csv").exists()
