"""Training through the running service, with the real launcher and real ranks."""

import asyncio
import json
import signal
import socket
import subprocess
from ipaddress import ip_address
from pathlib import Path

import psutil
import pytest

from protos.generated import recognizer_pb2 as pb
from recognizer_svc.client import RecognizerClient
from recognizer_svc.runs.record import JobStatus, read_record
from recognizer_svc.runs.run_dir import JobFiles, RunDir
from recognizer_svc.service.limits import interface_address, loopback_interface
from recognizer_svc.service.processes import job_processes
from recognizer_svc.training.checkpoint import load_checkpoint
from stal_data.errors import ConflictError, InputError, NotFoundError
from tests.hostile import STAL_CLI, hostile_folder
from tests.recognizer.toy_store import ACAR
from tests.services.conftest import TRAINED, Trained
from tests.services.job_listeners import listening_addresses
from tests.services.recognizer_process import ENVIRONMENT, RecognizerProcess, unused_port

ONE_PROCESS = pb.Launch(nproc_per_node=1, backend="gloo")
ENDLESS = ("training.epochs=100000", "training.log_every_steps=1", "validation.split=null")


def events_of(updates: list[pb.JobUpdate]) -> list[pb.JobEvent]:
    return [update.event for update in updates if update.WhichOneof("update") == "event"]


def jobs_of(updates: list[pb.JobUpdate]) -> list[pb.Job]:
    return [update.job for update in updates if update.WhichOneof("update") == "job"]


async def test_training_streams_every_event_and_ends_with_the_job(trained: Trained) -> None:
    events, jobs = events_of(trained.updates), jobs_of(trained.updates)
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    kinds = [event.WhichOneof("event") for event in events]
    assert kinds.count("epoch") == kinds.count("validation") == 3
    assert kinds[-1] == "done"
    assert None not in kinds
    step = next(event.step for event in events if event.WhichOneof("event") == "step")
    assert (step.epoch, step.epochs) == (1, 3)
    assert step.loss > 0
    assert step.learning_rate > 0
    assert step.actors_per_s > 0
    assert trained.updates[0].WhichOneof("update") == trained.updates[-1].WhichOneof("update") == "job"
    assert jobs[-1].status == pb.JOB_STATUS_SUCCEEDED
    assert (jobs[-1].launch.nproc_per_node, jobs[-1].launch.backend) == (2, "gloo")
    best = max(event.validation.map for event in events if event.WhichOneof("event") == "validation")
    assert events[-1].done.best_map == best


def test_a_job_of_one_node_listens_on_loopback_alone(trained: Trained) -> None:
    """Torch's stores would listen on all addresses."""
    assert trained.listening
    assert [address for address in trained.listening if not ip_address(address).is_loopback] == []


async def test_watching_a_finished_job_gives_its_whole_history(trained: Trained) -> None:
    events = events_of(trained.updates)
    async with RecognizerClient(trained.service.client) as client:
        again = [update async for update in client.watch_job(TRAINED)]
        rest = [update async for update in client.watch_job(TRAINED, from_seq=events[-2].seq)]
        job = await client.get_job(TRAINED)
        (listed,) = [job for job in await client.list_jobs() if job.run_id == TRAINED]
    assert events_of(again) == events
    assert events_of(rest) == events[-2:]
    assert job == listed == jobs_of(again)[-1]


async def test_what_the_service_refuses(trained: Trained) -> None:
    async def train(**fields: object) -> None:
        async with RecognizerClient(trained.service.client) as client:
            async for _ in client.train(pb.TrainRequest(**{"run_id": "refused", "recipe": ACAR} | fields)):
                pass

    with pytest.raises(ConflictError, match=f"'{TRAINED}' exists in the store"):
        await train(run_id=TRAINED)
    with pytest.raises(InputError, match="Did you mean 'depth'"):
        await train(overrides=["head.detph=1"])
    with pytest.raises(InputError, match="nproc_per_node is 65"):
        await train(launch=pb.Launch(nproc_per_node=65))
    with pytest.raises(NotFoundError, match="toy/trian is not published"):
        await train(overrides=["data.train_split=trian"])
    async with RecognizerClient(trained.service.client) as client:
        for call in (client.get_job, client.cancel_job):
            with pytest.raises(NotFoundError, match=f"Did you mean '{TRAINED}'"):
                await call("traiend")
    assert not (trained.store.runs_dir / "refused").exists()


async def test_a_workers_error_is_the_jobs_message(trained: Trained) -> None:
    # Found by the ranks only: the toy label map has 4 classes.
    request = pb.TrainRequest(run_id="misfit", recipe=ACAR, overrides=["loss={kind: pose_softmax}"], launch=ONE_PROCESS)
    async with RecognizerClient(trained.service.client) as client:
        updates = [update async for update in client.train(request)]
    job = jobs_of(updates)[-1]
    assert job.status == pb.JOB_STATUS_FAILED
    assert job.message.startswith("loss.num_poses is 13")


async def test_a_job_survives_the_service_and_its_watcher_does_too(trained: Trained) -> None:
    """SIGKILL the service in the middle of a training: the client goes on with the next service, event by event."""
    request = pb.TrainRequest(
        run_id="survivor",
        recipe=ACAR,
        overrides=ENDLESS,
        launch=ONE_PROCESS,
        request_id="once",
    )
    run = RunDir(trained.store.runs_dir / "survivor")
    seen: list[pb.JobUpdate] = []
    killed_at = 0
    async with RecognizerClient(trained.service.client) as client:
        async for update in client.train(request):
            seen.append(update)
            count = len(events_of(seen))
            if count == 10 and not killed_at:
                killed_at = count
                trained.service.kill()
                await asyncio.to_thread(trained.service.start)
                (job,) = [job for job in await client.list_jobs() if job.run_id == "survivor"]
                assert job.status == pb.JOB_STATUS_RUNNING
                assert job_processes(run.root, 0)
            if killed_at and count > killed_at + 200:
                break
        ended = await client.cancel_job("survivor")
    assert [event.seq for event in events_of(seen)] == list(range(1, len(events_of(seen)) + 1))
    assert ended.status == pb.JOB_STATUS_CANCELLED
    assert job_processes(run.root, 0) == []
    assert load_checkpoint(run.checkpoint("latest")).progress.epochs_done > 0


@pytest.mark.slow
async def test_two_nodes_train_one_run(trained: Trained, tmp_path: Path) -> None:
    """Two services on one store stand for two machines; they meet on an interface that is not loopback."""
    names = [name for name in psutil.net_if_addrs() if name != loopback_interface() and has_address(name)]
    if not names:
        pytest.skip("this machine has no network interface besides loopback")
    endpoint = f"{interface_address(names[0])}:{unused_port()}"
    services = []
    for rank in range(2):
        folder = tmp_path / str(rank)
        folder.mkdir()
        services.append(RecognizerProcess(trained.store.root, folder, "--interface", names[0]).start())

    async def train(rank: int) -> list[pb.JobUpdate]:
        launch = pb.Launch(nproc_per_node=1, nnodes=2, node_rank=rank, backend="gloo", rdzv_endpoint=endpoint)
        async with RecognizerClient(services[rank].client) as client:
            request = pb.TrainRequest(
                run_id="both", recipe=ACAR, overrides=["training.epochs=50", "validation.split=null"], launch=launch
            )
            updates = []
            async for update in client.train(request):
                if update.event.WhichOneof("event") == "step" and rank not in listening:
                    listening[rank] = listening_addresses(trained.store.runs_dir / "both", rank)
                updates.append(update)
            return updates

    listening: dict[int, set[str]] = {}
    first, second = await asyncio.gather(train(0), train(1))
    for service in services:
        assert service.stop() == 0
    assert [jobs_of(updates)[-1].status for updates in (first, second)] == [pb.JOB_STATUS_SUCCEEDED] * 2
    assert events_of(first) == events_of(second)
    start = json.loads(RunDir(trained.store.runs_dir / "both").provenance.read_text())["starts"][0]
    assert start["world_size"] == 2
    assert listening == {rank: {interface_address(names[0])} for rank in range(2)}


def has_address(interface: str) -> bool:
    return any(entry.family == socket.AF_INET for entry in psutil.net_if_addrs()[interface])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_a_training_command_ends_it_with_a_checkpoint(
    trained: Trained, tmp_path: Path, number: signal.Signals
) -> None:
    run = RunDir(trained.store.runs_dir / f"interrupted-{number}")
    recipe = tmp_path / "acar.yaml"
    recipe.write_text(ACAR)
    words = ["train", str(recipe), "--store", str(trained.store.root), "--run-id", run.root.name]
    words += ["--backend", "gloo", "--nproc-per-node", "1"]
    words += [word for value in ENDLESS for word in ("--set", value)]
    with subprocess.Popen(
        [STAL_CLI, *words],
        cwd=hostile_folder(tmp_path),
        env=ENVIRONMENT,
        stderr=subprocess.PIPE,
        text=True,
    ) as command:
        assert command.stderr is not None
        lines = [next(line for line in command.stderr if "epoch 2/100000: loss" in line)]
        command.send_signal(number)
        lines += command.stderr
    errors = "".join(lines)
    if number == signal.SIGINT:
        assert command.returncode == 130, errors
        assert f"stal-cli train --run-id {run.root.name} --resume --store {trained.store.root}" in errors
    else:
        assert command.returncode == -number, errors  # as whoever sent it expects
    record = read_record(JobFiles(run).record)
    assert record is not None
    assert record.status is JobStatus.CANCELLED
    assert load_checkpoint(run.checkpoint("latest")).progress.epochs_done > 0
