"""A disk that is full at checkpoint time: a clear error, the old checkpoint stays, and the run goes on."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from recognizer_svc.runs.run_dir import RunDir
from tests.network.hosts import Program, until
from tests.network.services import Service, credentials, start_recognizer
from tests.network.training import EPOCHS, STORE, Site, assert_same_bits, epochs_saved, latest

pytestmark = [pytest.mark.network, pytest.mark.timeout(600)]

PORT = 50062


@dataclass(frozen=True, kw_only=True)
class SmallDisk:
    """A recognizer that keeps its runs on a file system of 16 MB, which only its host sees mounted."""

    service: Service
    folder: Path
    """As seen from outside the host."""

    def train(self, site: Site, run_id: str, *options: object) -> Program:
        recipe = () if "--resume" in options else (site.laptop.disk / "acar.yaml", "--set", f"training.epochs={EPOCHS}")
        where = ("--recognizer", self.service.address, *credentials(site.laptop))
        return site.laptop.start(
            *("train", *recipe, "--run-id", run_id, "--backend", "gloo", "--nproc-per-node", 1, *options, *where)
        )

    def run(self, run_id: str) -> RunDir:
        return RunDir(self.folder / "stage" / "runs" / run_id)

    def fill(self, *, left: int) -> Path:
        """Leave so many bytes free; returns the file to remove."""
        ballast, state = self.folder / "ballast", os.statvfs(self.folder)
        ballast.write_bytes(bytes(state.f_bavail * state.f_frsize - left))
        return ballast


@pytest.fixture
def small(site: Site) -> Iterator[SmallDisk]:
    host = site.recognizers["b"].host
    inside = host.disk / "small"
    inside.mkdir(exist_ok=True)
    assert host.start_program("mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", inside).wait().returncode == 0
    service = start_recognizer(host, STORE, "--stage", inside / "stage", port=PORT)
    yield SmallDisk(service=service, folder=Path(f"/proc/{host.pid}/root{inside}"))
    service.stop(seconds=30)
    assert host.start_program("umount", inside).wait().returncode == 0


@pytest.mark.parametrize("left", [40_000, 0], ids=["too-little-for-a-checkpoint", "nothing-left"])
def test_a_full_disk_at_checkpoint_time(site: Site, small: SmallDisk, calm: RunDir, left: int) -> None:
    name = f"full-{left}"
    run = small.run(name)
    client = small.train(site, name)
    until(lambda: epochs_saved(run) >= 5, "epoch 5", seconds=120)
    ballast = small.fill(left=left)
    failed = client.wait(seconds=120)
    kept = latest(run).progress.epochs_done
    assert failed.returncode == 1, failed
    assert "No space left on device" in failed.stderr
    assert 5 <= kept < EPOCHS
    assert small.service.program.alive

    ballast.unlink()
    again = small.train(site, name, "--resume").wait()
    assert again.returncode == 0, again
    assert_same_bits(run, calm)
