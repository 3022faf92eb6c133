"""No child process outlives a command, whichever signal ends it and when, and nothing unfinished stays on disk."""

import random
import shutil
import signal
import socket
import subprocess
import sys
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from stal_data.work_folder import work_folder
from tests.cli.inference_store import BACKBONES, make_store
from tests.data.videos import constant, write_video
from tests.detector.samples import MODEL, save_tiny_weights, write_dataset
from tests.recognizer import toy_store
from tests.services.recognizer_process import ENVIRONMENT

SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGKILL]
TIMEOUT_S = 120
MARK = "STAL_TEST_FAMILY"


class Family:
    """A command and all that it starts, known by a variable in their environment."""

    def __init__(self, words: Sequence[object], folder: Path) -> None:
        self._mark = uuid.uuid4().hex
        self._log = folder / "log"
        start = [sys.executable, "-P", "-m", *map(str, words)]
        with self._log.open("wb") as log:
            environment = ENVIRONMENT | {MARK: self._mark}
            self.command = subprocess.Popen(start, env=environment, stdout=log, stderr=log)

    def members(self) -> list[psutil.Process]:
        return [process for process in psutil.process_iter() if self._belongs(process)]

    def _belongs(self, process: psutil.Process) -> bool:
        try:
            return process.environ().get(MARK) == self._mark and process.status() != psutil.STATUS_ZOMBIE
        except psutil.Error:
            return False

    def wait_until(self, word: str) -> psutil.Process:
        """Wait for a process with the word in its command line."""
        while True:
            for member in self.members():
                if word in " ".join(_command_line(member)):
                    return member
            with suppress(subprocess.TimeoutExpired):
                self.command.wait(0.05)
                pytest.fail(f"The command ended:\n{self._log.read_text()}")

    def end(self, number: signal.Signals) -> None:
        """Send the command the signal; nothing may be left of the family."""
        self.command.send_signal(number)
        code = self.command.wait(TIMEOUT_S)
        assert number == signal.SIGINT or code == -number, self._log.read_text()
        self.check_gone()

    def check_gone(self) -> None:
        _, left = psutil.wait_procs(self.members(), timeout=TIMEOUT_S)
        assert [(process.pid, _command_line(process)) for process in left] == []

    def clear(self) -> None:
        for process in self.members():
            process.kill()
        self.command.wait()


def _command_line(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


@pytest.fixture
def start(tmp_path: Path, request: pytest.FixtureRequest) -> Callable[..., Family]:
    """Start a command."""

    def begin(*words: object, module: str = "cli.main") -> Family:
        family = Family([module, *words], tmp_path)
        request.addfinalizer(family.clear)
        return family

    return begin


@pytest.mark.parametrize("number", SIGNALS)
def test_processes_that_render(start: Callable[..., Family], tmp_path: Path, number: signal.Signals) -> None:
    data = tmp_path / "out" / "data"
    family = start("dataset", "synth", data, "--seed", 0)
    family.wait_until("spawn_main")
    family.end(number)
    with work_folder(data.parent / "next"):  # what a killed process left goes at the next start
        assert len(list(data.parent.glob(".*"))) == 1
    assert list(data.parent.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGTERM])
def test_a_stage_of_the_demo(start: Callable[..., Family], tmp_path: Path, number: signal.Signals) -> None:
    family = start("demo", "--output", tmp_path / "out")
    family.wait_until("spawn_main")
    family.end(number)
    assert list((tmp_path / "out").glob(".*.unfinished")) == []


@pytest.mark.parametrize("number", [signal.SIGKILL])
def test_the_detector_of_infer(start: Callable[..., Family], tmp_path: Path, number: signal.Signals) -> None:
    family = start(*infer_words(tmp_path))
    family.wait_until("serve detector")
    family.end(number)


@pytest.mark.parametrize("number", [signal.SIGKILL])
def test_the_ranks_of_a_training(start: Callable[..., Family], tmp_path: Path, number: signal.Signals) -> None:
    family = start(*train_words(tmp_path))
    family.wait_until("recognizer_svc.training.worker --job-dir")
    family.end(number)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_the_processes_of_a_sweep(start: Callable[..., Family], tmp_path: Path, number: signal.Signals) -> None:
    words = train_words(tmp_path)
    recipe, store, sets = words[1], words[3], words[8:10]
    family = start("sweep", recipe, "--store", store, "--output", tmp_path / "out", *sets)
    family.wait_until("cli.workflow.sweep.worker")
    family.end(number)


def infer_words(folder: Path) -> list[object]:
    """With weights that are empty: the services start nevertheless."""
    label_map = folder / "store" / "runs" / "first" / "label_map.pbtxt"
    label_map.parent.mkdir(parents=True)
    label_map.write_text('label { name: "walk" label_id: 1 }\n')
    (folder / "person.pt").touch()
    video = write_video(folder / "street.mp4", constant(25, 75))
    options = ["--run", "first", "--slowfast", "gone", "--vit", "gone", "--detector-weights", folder / "person.pt"]
    return ["infer", video, "--store", folder / "store", *options, "--output", folder / "out"]


def train_words(folder: Path) -> list[object]:
    store = toy_store.make_store(folder / "store", train=7, test=7, views=("identity",))
    recipe = folder / "recipe.yaml"
    recipe.write_text(toy_store.ACAR)
    sets = [word for value in ("training.epochs=100000", "validation.split=null") for word in ("--set", value)]
    return ["train", recipe, "--store", store.root, "--run-id", "first", "--nproc-per-node", 2, *sets]


def test_what_killed_writers_left_is_removed_and_what_others_hold_or_made_stays(tmp_path: Path) -> None:
    code = "import os, sys, pathlib, stal_data.work_folder as w; c = w.work_folder(pathlib.Path(sys.argv[1]));"
    code += "(c.__enter__() / 'half').touch(); os.kill(os.getpid(), 9)"
    subprocess.run([sys.executable, "-c", code, tmp_path / "data"], env=ENVIRONMENT, check=False)
    (left,) = tmp_path.iterdir()
    elsewhere = tmp_path / left.name.replace(f".{socket.gethostname()}.", ".another-host.")
    shutil.copytree(left, elsewhere)
    (tmp_path / ".mine.unfinished").mkdir()
    with work_folder(tmp_path / "other") as first, work_folder(tmp_path / "data") as second:
        assert not left.exists()
        assert first.exists()
        assert second.exists()
    assert {path.name for path in tmp_path.iterdir()} == {".mine.unfinished", elsewhere.name}


def test_a_killed_training_leaves_its_weights_whatever_is_made_beside_it(tmp_path: Path) -> None:
    code = "import os, sys, pathlib, stal_data.work_folder as w;"
    code += "c = w.work_folder(pathlib.Path(sys.argv[1]), suffix='.training');"
    code += "(c.__enter__() / 'best.pt').write_text('weights'); os.kill(os.getpid(), 9)"
    subprocess.run([sys.executable, "-c", code, tmp_path / "person.pt"], env=ENVIRONMENT, check=False)
    with work_folder(tmp_path / "data"):
        assert [path.read_text() for path in tmp_path.rglob("best.pt")] == ["weights"]
    found = []
    with work_folder(tmp_path / "other.pt", suffix=".training", rescue=lambda *what: found.append(what)):
        assert list(tmp_path.rglob("best.pt")) == []
    assert [(content.name, name) for content, name in found] == [("content", "person.pt")]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the long commands need, enough for them to last."""
    folder = tmp_path_factory.mktemp("made")
    make_store(folder)
    save_tiny_weights(folder / "person.pt")
    write_dataset(folder / "long", videos=40)
    write_video(folder / "street.mp4", constant(1, 600))
    return folder


def long_commands(made: Path, folder: Path) -> dict[str, tuple[str, list[object]]]:
    """Module and words of each."""
    weights = [word for kind in BACKBONES for word in (f"--{kind}", made / f"{kind}.safetensors")]
    store, data = folder / "store", made / "long"
    features = ["precompute", data, "--split", "train", "--store", store, *weights, "--rows-per-shard", 1]
    run = ["--store", made / "store", "--run", "first"]
    detector = ["--detector-weights", made / "person.pt", "--confidence", "0.001"]
    boxes = ["--dataset", "small", "--split", "train", "--boxes", "ground-truth"]
    made_weights = folder / "vit.safetensors"
    stal = str(Path(sys.executable).with_name("stal-cli"))
    return {
        "synth": ("cli.main", ["dataset", "synth", folder / "data", "--seed", 0]),
        "demo": ("cli.main", ["demo", "--tiny", "--output", folder / "demo"]),
        "infer": ("cli.main", ["infer", made / "street.mp4", *run, *weights, *detector, "--output", folder / "out"]),
        "train": ("cli.main", train_words(folder / "toy")),
        "predict": (
            "cli.main",
            ["predict", *run, *boxes, "--output", folder / "predictions.csv"],
        ),
        "precompute": ("cli.main", features),
        "devices": ("cli.main", [*features, "--device", "cpu,cpu:0"]),
        "torchrun": (
            "torch.distributed.run",
            ["--nproc-per-node", 2, "--standalone", "--no-python", stal, *features],
        ),
        "detector-train": (
            "cli.main",
            ["detector", "train", data, "--model", MODEL, "--epochs", 50, "--output", folder / "trained.pt"],
        ),
        "backbone-train": (
            "cli.main",
            ["backbone", "train", data, "--kind", "vit", "--preset", "tiny", "--steps", 500, "--output", made_weights],
        ),
    }


COMMANDS = [
    "synth", "demo", "infer", "train", "predict", "precompute", "devices", "torchrun", "detector-train",
    "backbone-train",
]  # fmt: skip


@pytest.mark.soak
@pytest.mark.timeout(600)
@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("repeat", range(3))
def test_at_random_moments(
    start: Callable[..., Family], made: Path, tmp_path: Path, name: str, number: signal.Signals, repeat: int
) -> None:
    module, words = long_commands(made, tmp_path)[name]
    family = start(*words, module=module)
    longest_s = 60 if name == "demo" else 15
    try:
        family.command.wait(random.Random(f"{name} {number} {repeat}").uniform(0.1, longest_s))
    except subprocess.TimeoutExpired:
        family.end(number)
    else:
        family.check_gone()
