"""How the private service of a command ends: in order, and no process of its job outlives it."""

import asyncio
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from cli import private_service
from cli.private_service import PrivateServiceError, recognizer_at
from protos.generated import recognizer_pb2 as pb
from recognizer_svc.client import RecognizerClient
from recognizer_svc.run_dir import RunDir
from recognizer_svc.service.processes import job_processes
from recognizer_svc.service.record import JobFiles, JobStatus, read_record
from svc_common.config import ClientConfig
from svc_common.errors import ServiceError, ServiceUnavailableError
from tests.recognizer.toy_store import ACAR
from tests.services.conftest import Trained


@pytest.fixture
def services(monkeypatch: pytest.MonkeyPatch) -> list[subprocess.Popen[bytes]]:
    """The private services that were started."""
    processes, start = [], private_service._start

    def noted(*arguments: object) -> subprocess.Popen[bytes]:
        processes.append(start(*arguments))
        return processes[-1]

    monkeypatch.setattr(private_service, "_start", noted)
    return processes


async def train_until(moment: str, service: ClientConfig, run: RunDir) -> None:
    """Leave then, as a command does on Ctrl-C when it knows of no job yet: without a call to cancel."""
    request = pb.TrainRequest(
        run_id=run.root.name,
        recipe=ACAR,
        overrides=("training.epochs=100000", "training.log_every_steps=1", "validation.split=null"),
        launch=pb.Launch(nproc_per_node=1, backend="gloo"),
    )
    async with RecognizerClient(service) as recognizer:
        updates = recognizer.train(request)
        if moment == "training":
            async for update in updates:
                if update.event.WhichOneof("event") == "step":
                    break
            await updates.aclose()
            return
        first = asyncio.ensure_future(anext(updates))
        async with asyncio.timeout(60):
            while not run.root.exists():
                await asyncio.sleep(0.001)
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)


@pytest.mark.parametrize("moment", ["admission", "training"])
def test_its_job_ends_with_it(trained: Trained, services: list[subprocess.Popen[bytes]], moment: str) -> None:
    run = RunDir(trained.store.runs_dir / f"left-in-{moment}")
    with recognizer_at(None, str(trained.store.root)) as service:
        asyncio.run(train_until(moment, service, run))
    assert [process.returncode for process in services] == [0]
    record = read_record(JobFiles(run).record)
    assert record is not None
    assert record.status is JobStatus.CANCELLED
    assert job_processes(run.root, 0) == []


TALKER = """
import pathlib, signal, sys

def end(*_):
    print("no memory is left", flush=True)
    sys.exit(3)

signal.signal(signal.SIGTERM, end)
port_file = pathlib.Path(sys.argv[1])
print("x" * 100_000)
print("the traceback", flush=True)
port_file.with_suffix(".tmp").write_text("1")
port_file.with_suffix(".tmp").rename(port_file)
sys.stdin.read(1)
end()
"""


@pytest.fixture
def talker(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Stands in for the service: says something, is ready, says something more when it is told to, and ends."""
    processes: list[subprocess.Popen[bytes]] = []

    def start(options: list[str], port_file: Path) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-c", TALKER, str(port_file)]
        processes.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE))
        return processes[-1]

    monkeypatch.setattr(private_service, "_start", start)
    yield processes
    for process in processes:
        assert process.stdin is not None
        process.stdin.close()


def fail(error: Exception, store: Path, ended: list[subprocess.Popen[bytes]] | None = None) -> None:
    """Let a command meet the error, after its service has ended if that is given."""
    with recognizer_at(None, str(store)):
        for process in ended or ():
            process.terminate()
            process.wait()
        raise error


@pytest.mark.usefixtures("talker")
def test_an_internal_error_comes_with_what_the_service_wrote(tmp_path: Path) -> None:
    with pytest.raises(PrivateServiceError, match=r"internal error\. Its last lines:\nx+\nthe traceback$") as caught:
        fail(ServiceError("internal error", grpc.StatusCode.INTERNAL), tmp_path)
    assert len(str(caught.value)) < 5000


def test_a_service_that_has_ended_is_not_looked_for(tmp_path: Path, talker: list[subprocess.Popen[bytes]]) -> None:
    match = r"has ended with exit code 3, after:\nx+\nthe traceback\nno memory is left$"
    with pytest.raises(PrivateServiceError, match=match):
        fail(ServiceUnavailableError("does not answer; is it running?"), tmp_path, talker)


def test_without_a_temporary_folder_the_error_names_tmpdir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    with pytest.raises(PrivateServiceError, match=r"no space in TMPDIR, or no right to write there \(No such file"):
        fail(AssertionError("not reached"), tmp_path)
