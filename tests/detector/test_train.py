"""Detector training through the command line, in a process that notes every attempt to reach out."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from cli.commands.detector import detector as detector_command
from detector_svc.detector_protocol import DetectorConfig
from detector_svc.yolo import training
from detector_svc.yolo.training import DetectorTrainConfig, train_detector
from detector_svc.yolo.yolo_detector import YoloDetector
from detector_svc.yolo.yolo_folders import YoloPart, choose_parts
from stal_data.dataset import Dataset
from stal_data.errors import InputError, NotFoundError, StalError
from tests.detector.samples import MODEL, picture
from tests.hostile import hostile_folder

ROOT = Path(__file__).parents[2]
# Every look-up of a name, connection and child process of the interpreter goes through these audit events.
WATCHED = """
import sys

def note(event, arguments):
    if event == "socket.connect" and isinstance(arguments[1], (str, bytes)):
        return  # a socket of this machine's file system
    if event in ("socket.getaddrinfo", "socket.connect", "socket.sendto", "subprocess.Popen", "os.system", "os.exec"):
        print("REACHED OUT", event, arguments[:2], file=sys.stderr)

sys.addaudithook(note)
from cli.main import main
main()
"""


@pytest.fixture(scope="module")
def trained(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Weights of one epoch, and what the process wrote to stderr."""
    output = tmp_path_factory.mktemp("trained") / "person.pt"
    home = tmp_path_factory.mktemp("home")
    arguments = [
        *("detector", "train", dataset, "--model", MODEL, "--image-size", "90x160", "--epochs", 1),
        *("--device", "cpu", "--output", output),
    ]
    # As a user's process: ultralytics holds its tongue when it finds itself in a test.
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "YOLO", "ULTRA"))
    }
    environment |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HOME": str(home), "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, "-P", "-c", WATCHED, *map(str, arguments)],
        env=environment,
        capture_output=True,
        text=True,
        cwd=hostile_folder(home),
    )
    assert done.returncode == 0, done.stderr
    assert "recall" in done.stdout
    assert list(home.rglob("*Ultralytics*")) == [], "the user's settings are not touched"
    return output, done.stderr


def test_training_reaches_out_to_nobody(trained: tuple[Path, str]) -> None:
    reached = [line for line in trained[1].splitlines() if line.startswith("REACHED OUT")]
    # Harmless questions about fonts, hardware and the local git repository.
    allowed = ("fc-list", "/sbin/ldconfig", "nvidia-smi", "lscpu", "git", "uname")
    assert [line for line in reached if not any(f"subprocess.Popen ('{name}'" in line for name in allowed)] == []


def test_trained_weights_serve_and_hold_nothing_of_this_machine(trained: tuple[Path, str], dataset: Path) -> None:
    output, _ = trained
    detector = YoloDetector(DetectorConfig(weights=output, device="cpu"))
    assert detector.people == ("person",)
    assert detector.config.image_size == (90, 160), "the size of the training"
    detector.detect([detector.prepare(picture(1))])
    metrics = json.loads(output.with_suffix(".json").read_text())
    assert 0 <= metrics["recall_at_iou_0.5"] <= 1
    assert (metrics["train_images"], metrics["val_images"], metrics["train_boxes"]) == (6, 3, 12)
    assert metrics["weights"] == detector.weights_digest
    assert str(dataset.parent).encode() not in output.read_bytes()
    assert sorted(path.name for path in output.parent.iterdir()) == ["person.json", "person.pt"]


def test_the_same_seed_gives_the_same_weights_and_another_start_others(
    trained: tuple[Path, str], dataset: Path, tmp_path: Path
) -> None:
    output, _ = trained
    train, val = choose_parts(
        [Dataset.open(dataset).split("train")], [], max_images=None, max_val_images=100, held_out=0.1, seed=0
    )

    def run(name: str, start: Path) -> bytes:
        config = DetectorTrainConfig(start=start, height=90, width=160, epochs=1, device="cpu")
        train_detector(config, train, val, tmp_path / name)
        return (tmp_path / name).read_bytes()

    again = run("another-name.pt", MODEL)
    assert again == output.read_bytes()
    shutil.copyfile(output, tmp_path / "start.pt")
    assert run("third.pt", tmp_path / "start.pt") != again


def small_training(dataset: Path, **options: object) -> tuple[DetectorTrainConfig, YoloPart, YoloPart]:
    split = Dataset.open(dataset).split("train")
    parts = choose_parts([split], [], max_images=2, max_val_images=2, held_out=0.1, seed=0)
    config = {"start": MODEL, "height": 64, "width": 64, "epochs": 1, "device": "cpu"} | options
    return DetectorTrainConfig(**config), *parts


@pytest.mark.parametrize("error", [ZeroDivisionError("no luck"), KeyboardInterrupt()])
def test_weights_are_written_before_they_are_measured(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    output, said = tmp_path / "person.pt", []
    output.with_suffix(".json").write_text('{"recall_at_iou_0.5": 0.9}')  # of older weights

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(training, "measure", fail)
    with pytest.raises((StalError, KeyboardInterrupt)) as raised:
        train_detector(*small_training(dataset), output, say=said.append)
    if isinstance(error, Exception):
        assert f"kept in '{output}', but measuring them failed (ZeroDivisionError: no luck)" in str(raised.value)
    assert "person.pt: the weights are written" in said[0]
    metrics = json.loads(output.with_suffix(".json").read_text())
    detector = YoloDetector(DetectorConfig(weights=output, image_size=(64, 64), device="cpu"))
    assert (metrics["weights"], metrics["recall_at_iou_0.5"]) == (detector.weights_digest, None)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["person.json", "person.pt"]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(28, "No space left on device")])
def test_a_training_that_ends_early_keeps_its_best_weights(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    said: list[str] = []
    interrupted = isinstance(error, KeyboardInterrupt)

    def end_in_epoch_2(what: str, done: int, total: int) -> None:
        if interrupted and (done, total) == (2, 3) and what != "batches":
            raise error

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(training, "write_atomically", fail)
    with pytest.raises((KeyboardInterrupt, StalError)) as raised:
        train_detector(
            *small_training(dataset, epochs=3 if interrupted else 1),
            tmp_path / "p.pt",
            report=end_in_epoch_2,
            say=said.append,
        )
    (kept,) = tmp_path.iterdir()
    assert kept.name.startswith("p.unfinished-")
    assert f"kept in '{kept}'" in "".join([*said, str(raised.value)])
    YoloDetector(DetectorConfig(weights=kept, image_size=(64, 64), device="cpu"))


KILLED = """
import os, pathlib, sys
from stal_data.work_folder import work_folder

with work_folder(pathlib.Path(sys.argv[1]), suffix=".training") as work:
    (work / "run" / "weights").mkdir(parents=True)
    (work / "run" / "weights" / "best.pt").write_bytes(pathlib.Path(sys.argv[2]).read_bytes())
    os.kill(os.getpid(), 9)
"""


def test_the_best_weights_of_a_killed_training_are_brought_to_light(
    trained: tuple[Path, str], dataset: Path, tmp_path: Path
) -> None:
    command = [sys.executable, "-c", KILLED, tmp_path / "first.pt", trained[0]]
    subprocess.run(command, env=os.environ | {"PYTHONPATH": str(ROOT)}, check=False)
    said: list[str] = []
    train_detector(*small_training(dataset), tmp_path / "second.pt", say=said.append)
    (kept,) = tmp_path.glob("first.unfinished-*.pt")
    assert kept.read_bytes() == trained[0].read_bytes()
    assert said[0] == f"A training of 'first.pt' was killed; its best weights are kept in '{kept}'."
    assert {path.name for path in tmp_path.iterdir()} == {kept.name, "second.pt", "second.json"}


@pytest.mark.parametrize(
    ("options", "output", "text"),
    [
        ({"confidence": 1.5}, "o.pt", "Confidence 1.5 must be"),
        ({"height": 16}, "o.pt", "Image size 16x64"),
        ({"device": "cuda:99"}, "o.pt", "--device 'cuda:99' cannot be used"),
        ({}, "it's/o.pt", "without single quotes"),
        ({}, "taken.pt", "is a folder"),
        ({"start": "pose.yaml"}, "o.pt", r"pose.yaml' is a \w+ that ends in Pose, not in a detection head"),
        ({"start": "rtdetr.yaml"}, "o.pt", r"rtdetr.yaml' is a \w+ that ends in RTDETRDecoder, not in a"),
    ],
)
def test_what_cannot_work_is_refused_before_an_image_is_read(
    dataset: Path, tmp_path: Path, options: dict[str, object], output: str, text: str
) -> None:
    description = MODEL.read_text() + "kpt_shape: [17, 3]\n"
    (tmp_path / "pose.yaml").write_text(description.replace("Detect, [nc]", "Pose, [nc, [17, 3]]"))
    (tmp_path / "rtdetr.yaml").write_text(description.replace("Detect, [nc]", "RTDETRDecoder, [nc]"))
    (tmp_path / "taken.json").mkdir()
    if "start" in options:
        options = {"start": tmp_path / str(options["start"])}
    seen: list[object] = []
    with pytest.raises(InputError, match=text):
        train_detector(*small_training(dataset, **options), tmp_path / output, report=lambda *what: seen.append(what))
    assert seen == []
    assert not (tmp_path / output).exists()


def test_bad_starts_are_named(dataset: Path, tmp_path: Path) -> None:
    def run(*options: object) -> object:
        arguments = ["train", dataset, "--epochs", 1, "--output", tmp_path / "o.pt", *options]
        result = CliRunner().invoke(detector_command, [str(word) for word in arguments])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    (tmp_path / "bad.pt").write_bytes(b"junk")
    (tmp_path / "bad.yaml").write_text("backbone: [[-1, 1, NoSuchLayer, [1]]]\nhead: []\nnc: 1\n")
    with pytest.raises(InputError, match=r"bad\.pt"):
        run("--weights", tmp_path / "bad.pt")
    with pytest.raises(InputError, match=r"could not train '.*bad\.yaml'"):
        run("--model", tmp_path / "bad.yaml")
    (tmp_path / "bad.yaml").write_text("backbone: []\nhead: []\nnc: 1\n")
    with pytest.raises(InputError, match=r"could not train '.*bad\.yaml'"):
        run("--model", tmp_path / "bad.yaml")
    with pytest.raises(NotFoundError, match="nothing is downloaded"):
        run("--weights", "yolov8n.pt")
    with pytest.raises(InputError, match="square image size"):
        run("--model", MODEL, "--mosaic")
    assert run().exit_code == 2
    assert run("--model", MODEL, "--weights", "w.pt").exit_code == 2
    assert not (tmp_path / "o.pt").exists()
    assert not list(tmp_path.glob(".o-*")), "no leftovers"
