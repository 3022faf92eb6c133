"""A laptop with the extra `client` alone: services do the work, and its commands need neither torch nor zarr."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.main import root
from tests.data.videos import constant, write_video
from tests.detector.samples import ROOT, save_tiny_weights, start
from tests.services.recognizer_process import RecognizerProcess

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]
MOST_BYTES = 200e6
TINY = ("--slowfast", "random:1", "--slowfast-preset", "tiny")
RECIPE = ("linear", "--set", "training.epochs=1")


class Laptop:
    """A virtual environment without pip, and a folder that commands run in."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._bin = folder / "venv" / "bin"
        self._source = folder / "source"
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder / "venv")], check=True)
        # pip builds in the source folder.
        tracked = subprocess.check_output(["git", "ls-files", "-z"], cwd=ROOT, text=True).split("\0")
        for name in filter(None, tracked):
            if (ROOT / name).is_file():
                (self._source / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / name, self._source / name)

    def install(self, *extras: str) -> None:
        done = self._pip("install", f"{self._source}[{','.join(extras)}]")
        assert done.returncode == 0, done.stderr

    def can_fetch(self) -> bool:
        return self._pip("download", "--no-deps", "--no-cache-dir", "--dest", "fetched", "click").returncode == 0

    def num_bytes(self) -> int:
        return sum(path.stat().st_size for path in self.folder.glob("venv/lib/**/*") if path.is_file())

    def run(self, *words: object) -> str:
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "STAL_"))}
        command = [str(self._bin / "stal-cli"), *map(str, words)]
        done = subprocess.run(command, cwd=self.folder, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{words}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def _pip(self, command: str, *words: str) -> "subprocess.CompletedProcess[str]":
        pip = [sys.executable, "-m", "pip", "--python", str(self._bin / "python"), "--disable-pip-version-check"]
        pinned = ["--quiet", "--constraint", str(ROOT / "constraints.txt")]
        return subprocess.run([*pip, command, *pinned, *words], cwd=self.folder, capture_output=True, text=True)


@pytest.fixture(scope="module")
def laptop(tmp_path_factory: pytest.TempPathFactory) -> Laptop:
    made = Laptop(tmp_path_factory.mktemp("laptop"))
    if not made.can_fetch():
        pytest.skip("packages cannot be fetched")
    made.install("client")
    return made


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str, Path]]:
    """Addresses of a detector and a recognizer that read the data set `street`, and the recognizer's store."""
    folder = tmp_path_factory.mktemp("servers")
    data, store = folder / "data", folder / "store"
    words = ["dataset", "synth", str(data / "street"), "--seed", "0", "--train-videos", "4", "--test-videos", "2"]
    root(words, standalone_mode=False)
    weights = save_tiny_weights(folder / "person.pt")
    with start("--weights", weights, "--data-root", data, "--device", "cpu", "--port", 0) as detector:
        recognizer = RecognizerProcess(store, folder, "--data-root", str(data), *TINY)
        try:
            recognizer.start()
            assert detector.stdout is not None
            yield detector.stdout.readline().split()[-1], recognizer.address, data / "street"
        finally:
            recognizer.kill()
            detector.kill()


def test_the_whole_way_by_services(laptop: Laptop, servers: tuple[str, str, Path]) -> None:
    assert laptop.num_bytes() < MOST_BYTES
    detector, recognizer, dataset = servers
    there = ("--recognizer", recognizer)
    store = dataset.parent.parent / "store"  # as a share that both have mounted
    found = laptop.run("detect", "street", "--split", "test", "--server-side", "--store", store, "--detector", detector)
    name = Path(found.split(":")[0]).stem
    for split in ("train", "test"):
        assert "rows" in laptop.run("precompute", "street", "--split", split, "--view", "identity", *there)
    assert "Run first is trained" in laptop.run("train", *RECIPE, "--run-id", "first", *there)
    for boxes in ("ground-truth", f"proposals:{name}"):
        words = ("--run", "first", "--dataset", "synthetic", "--split", "test", "--boxes", boxes)
        laptop.run("predict", *words, *there, "--output", "predictions.csv")
    jobs = json.loads(laptop.run("jobs", "list", *there, "--json"))
    assert {job["status"] for job in jobs} == {"succeeded"}
    assert {job["kind"] for job in jobs} == {"precompute", "train"}
    assert "succeeded" in laptop.run("jobs", "watch", "first", *there)
    assert {row["state"] for row in json.loads(laptop.run("status", "--detector", detector, *there, "--json"))} == {
        "ready"
    }
    street = write_video(laptop.folder / "street.mp4", constant(25, 75))
    for extras, words in ((["media"], ()), (["media", "track"], ("--track",))):
        laptop.install("client", *extras)
        laptop.run("infer", street, "--detector", detector, *there, *words, "--output", "out")
        persons = [line.split(",")[8:] for line in (laptop.folder / "out" / "predictions.csv").read_text().splitlines()]
        assert persons
        assert all(len(person) == len(words) for person in persons)
        assert (laptop.folder / "out" / "videos" / "street" / "street-annotated.mp4").is_file()
        assert (laptop.folder / "out" / "actions.csv").is_file() == bool(words)
    laptop.install("client", "evaluation")
    truth = dataset / "annotations"
    files = ("--ground-truth", truth / "test_gt.csv", "--label-map", truth / "list_action.pbtxt")
    laptop.run("eval", "--predictions", "predictions.csv", *files, "--output", "results")
    assert 0 <= json.loads((laptop.folder / "results" / "metrics.json").read_text())["mAP_at_50"] <= 1
