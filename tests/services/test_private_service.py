"""How the private service of a command ends: in order, and no process of its job outlives it."""

import asyncio
import subprocess

import pytest

from cli import private_service
from cli.private_service import recognizer_at
from protos.generated import recognizer_pb2 as pb
from recognizer_svc.client import RecognizerClient
from recognizer_svc.run_dir import RunDir
from recognizer_svc.service.processes import job_processes
from recognizer_svc.service.record import JobFiles, JobStatus, read_record
from svc_common.config import ClientConfig
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
