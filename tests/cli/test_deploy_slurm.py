"""The batch scripts run in bash, with stand-ins for Slurm's commands: what they start, and how they end.

`make test-slurm` runs them under a real Slurm.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from recognizer_svc.client import RecognizerClient
from svc_common.config import ClientConfig
from tests.services.recognizer_process import ENVIRONMENT

SLURM = Path(__file__).parents[2] / "deploy" / "slurm"
# Starts the command that follows its own options, in its own process, as srun's tasks get what srun is told.
SRUN = """#!/bin/bash
echo $$ > "$STEP"
while [ "${1#--}" != "$1" ]; do shift; done
exec "$@"
"""
# To the step and what it has started, as some of Slurm's process trackers do.
SCANCEL = """#!/bin/bash
[ "$2" = 42.0 ] && step="$(cat "$STEP")" && kill -"${1#--signal=}" "$step" $(ps -o pid= --ppid "$step")
"""
SCONTROL = """#!/bin/bash
echo node0
"""
# A service that drains for a moment, and a client that is told how its training ends.
STAL_CLI = """#!/bin/bash
case "$1" in
serve)
    trap 'sleep 0.3; echo drained >> "$LOG"; exit 0' TERM
    trap 'echo killed >> "$LOG"; exit 1' USR1
    while [ "$1" != --port-file ]; do shift; done
    echo 1 > "$2"
    ;;
train)
    case "$TRAINING" in
    succeeds) exit 0 ;;
    fails) exit 3 ;;
    esac
    echo training >> "$LOG"
    ;;
esac
while :; do sleep 0.05; done
"""
# A service that is still loading.
LOADING = """#!/bin/bash
trap 'exit 0' TERM
echo loading >> "$LOG"
while :; do sleep 0.05; done
"""


class Batch:
    """A batch script's process; `log` is what the stand-ins have written."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log = folder / "log"
        self.process: subprocess.Popen[bytes] | None = None

    def stand_in(self, name: str, script: str) -> None:
        path = self.folder / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(script)
        path.chmod(0o755)

    def start(self, script: str, *words: str, **environment: str) -> None:
        path = f"{self.folder / 'bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}"
        slurm = {"SLURM_JOB_ID": "42", "SLURM_JOB_NODELIST": "node0", "SLURM_NNODES": "1", "SLURM_NODEID": "0"}
        own = {"PATH": path, "STEP": str(self.folder / "step"), "LOG": str(self.log), "TMPDIR": str(self.folder)}
        with (self.folder / "output").open("wb") as output:
            self.process = subprocess.Popen(
                ["bash", str(SLURM / script), *words],
                env=ENVIRONMENT | slurm | own | environment,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    @property
    def output(self) -> str:
        return (self.folder / "output").read_text()

    def until(self, holds: Callable[[], bool]) -> None:
        assert self.process is not None
        deadline = time.monotonic() + 120
        while not holds():
            assert self.process.poll() is None, self.output
            assert time.monotonic() < deadline, self.output
            time.sleep(0.05)

    def said(self, text: str) -> bool:
        return self.log.exists() and text in self.log.read_text()

    def tell(self) -> None:
        """As Slurm does before the time limit: the script alone."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)

    def end(self) -> int:
        assert self.process is not None
        return self.process.wait(200)  # a busy machine takes a while to import torch


@pytest.fixture
def batch(tmp_path: Path) -> "Batch":
    found = Batch(tmp_path)
    for name, script in {"srun": SRUN, "scancel": SCANCEL, "scontrol": SCONTROL}.items():
        found.stand_in(name, script)
    return found


async def test_a_recognizer_takes_its_jobs_along_and_its_drain_is_a_success(batch: Batch, tmp_path: Path) -> None:
    address = tmp_path / "address"
    batch.start("service.sbatch", "--store", str(tmp_path / "store"), SERVICE="recognizer", ADDRESS_FILE=str(address))
    batch.until(address.exists)
    command = Path(f"/proc/{(tmp_path / 'step').read_text().strip()}/cmdline").read_text().split("\0")
    assert "--cancel-jobs" in command
    async with RecognizerClient(ClientConfig(address=address.read_text().strip())) as client:
        assert (await client.get_info()).machine == "slurm-service-42"
    batch.tell()
    assert batch.end() == 0, batch.output
    assert not address.exists()


def test_a_service_that_does_not_start_fails_the_job(batch: Batch, tmp_path: Path) -> None:
    batch.start("service.sbatch", "--no-such-option", SERVICE="detector", ADDRESS_FILE=str(tmp_path / "address"))
    assert batch.end() == 2, batch.output
    assert not (tmp_path / "address").exists()


def test_a_service_that_is_stopped_while_it_loads_ends_the_job(batch: Batch, tmp_path: Path) -> None:
    batch.stand_in("stal-cli", LOADING)
    batch.start("service.sbatch", SERVICE="detector", ADDRESS_FILE=str(tmp_path / "address"))
    batch.until(lambda: batch.said("loading"))
    batch.tell()
    assert batch.end() == 0, batch.output


@pytest.mark.parametrize(("training", "code"), [("succeeds", 0), ("fails", 3)])
def test_a_training_job_ends_as_its_training_after_the_service_has_drained(
    batch: Batch, training: str, code: int
) -> None:
    batch.stand_in("stal-cli", STAL_CLI)
    batch.start("train.sbatch", RECIPE="acar", RUN_ID="one", STORE="store", TRAINING=training)
    assert batch.end() == code, batch.output
    assert batch.said("drained")


@pytest.mark.parametrize("times", [1, 2])
def test_a_stopped_training_drains_and_is_no_success(batch: Batch, times: int) -> None:
    batch.stand_in("stal-cli", STAL_CLI)
    batch.start("train.sbatch", RECIPE="acar", RUN_ID="one", STORE="store", TRAINING="goes on")
    batch.until(lambda: batch.said("training"))
    for _ in range(times):
        batch.tell()
    assert batch.end() == 143, batch.output
    assert batch.said("drained")
    assert not batch.said("killed")
