"""Features computed by recognizer services as jobs, by the commands that a user types and by a client."""

import asyncio
import json
import re
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cache.feature_store import FeatureSet, ShardClaim
from cache.store import Store
from cli.workflow.precompute_services import precompute_at
from protos.generated import recognizer_pb2 as pb
from recognizer_svc.client import RecognizerClient
from recognizer_svc.precompute.request import FeatureRequest
from recognizer_svc.runs.run_dir import RunDir
from recognizer_svc.runs.store import RunStore
from recognizer_svc.service.jobs import JobManager
from recognizer_svc.service.limits import JobLimits
from recognizer_svc.service.precompute_admission import PrecomputeSubmission
from recognizer_svc.service.processes import job_processes, kill_all
from stal_data.errors import ConflictError, InputError, NotFoundError
from svc_common.errors import BusyError
from tests.recognizer.joint_store import write_dataset
from tests.services.conftest import metrics_page, metrics_page_without_jobs
from tests.services.recognizer_process import RecognizerProcess, stal_cli, unused_port

BACKBONES = ("--slowfast", "random:1", "--slowfast-preset", "tiny", "--vit", "random:2", "--vit-preset", "tiny")
WANTED = ("--split", "train", "--rows-per-shard", "1", "--view", "identity", "--view", "hflip")
NUM_ROWS = 9


@pytest.fixture(scope="module")
def data_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    (root / "sets" / "noise").mkdir(parents=True)
    write_dataset(root / "sets" / "noise")
    return root


@pytest.fixture(scope="module")
def local(data_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store whose features this machine's own command has computed."""
    store = tmp_path_factory.mktemp("local") / "store"
    done = stal_cli("precompute", str(data_root / "sets/noise"), *WANTED, "--store", str(store), *BACKBONES)
    assert done.returncode == 0, done.stderr
    return Store.open(store)


@pytest.fixture
def services(data_root: Path, tmp_path: Path) -> Iterator[list[RecognizerProcess]]:
    """Two services on one store, each with a name of its own as on a machine of its own."""
    made = []
    try:
        for name in ("a", "b"):
            (tmp_path / name).mkdir()
            options = ("--data-root", str(data_root), "--machine", name, *BACKBONES)
            made.append(RecognizerProcess(tmp_path / "store", tmp_path / name, *options).start())
        yield made
    finally:
        for service in made:
            service.kill()


@pytest.fixture
def held(local: Store, tmp_path: Path) -> Iterator[ExitStack]:
    """Claims on the last shard, so that no job can fill the set before they are closed."""
    with ExitStack() as claims:
        for name in sets_of(local):
            locks = tmp_path / "store/features/noise/train/.locks" / name
            locks.mkdir(parents=True)
            claim = ShardClaim.take(locks, NUM_ROWS - 1)
            assert claim is not None
            claims.enter_context(claim)
        yield claims


def sets_of(store: Store) -> dict[str, FeatureSet]:
    folders = store.features_dir("noise", "train").glob("[!.]*")
    return {path.name: FeatureSet(path) for path in folders if path.is_dir()}


def check_equal(made: Store, wanted: Store) -> None:
    found, expected = sets_of(made), sets_of(wanted)
    assert found.keys() == expected.keys()
    assert len(found) == 2
    for name, features in expected.items():
        assert found[name].done.all()
        rows = list(range(NUM_ROWS))
        for array, values in features.read(rows).items():
            np.testing.assert_array_equal(found[name].read(rows)[array], values)


def request(job_id: str) -> pb.PrecomputeRequest:
    return pb.PrecomputeRequest(
        job_id=job_id, dataset="sets/noise", split="train", views=["identity", "hflip"], rows_per_shard=1
    )


def test_two_services_share_a_set(services: list[RecognizerProcess], local: Store, tmp_path: Path) -> None:
    addresses = ",".join(service.address for service in services)
    done = stal_cli("precompute", "sets/noise", *WANTED, "--recognizer", addresses, "--json")
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(line["view"], line["rows"], line["of"]) for line in lines if "set" in line] == [
        ("identity", NUM_ROWS, NUM_ROWS),
        ("hflip", NUM_ROWS, NUM_ROWS),
    ]
    assert {"phase": "extract", "done": NUM_ROWS, "total": NUM_ROWS} in lines
    store = Store.open(tmp_path / "store")
    check_equal(store, local)
    listed = json.loads(stal_cli("jobs", "list", "--store", str(store.root), "--json").stdout)
    assert {(job["kind"], job["host"]) for job in listed} == {("precompute", "a"), ("precompute", "b")}
    assert RunStore.of(store).present() == []


async def test_cancelled_resumed_and_left(
    services: list[RecognizerProcess], held: ExitStack, local: Store, tmp_path: Path
) -> None:
    """A job is cancelled; the other service goes on; its client leaves, and its service is killed in the middle."""
    first, second = services
    async with RecognizerClient(first.client) as one, RecognizerClient(second.client) as other:
        async for update in one.precompute(request("cancelled")):
            if update.event.precompute.phase == "extract":
                break
        assert (await one.cancel_job("cancelled")).status == pb.JOB_STATUS_CANCELLED
        held.close()
        async for update in other.precompute(request("left")):
            if update.event.precompute.phase == "extract":
                break
        second.kill()
        await asyncio.to_thread(second.start)  # takes the job over
        watched = await asyncio.to_thread(stal_cli, "jobs", "watch", "left", "--recognizer", second.address)
    assert watched.returncode == 0, watched.stderr
    assert "left: succeeded" in watched.stdout
    assert f"{NUM_ROWS} of {NUM_ROWS}" in watched.stderr
    check_equal(Store.open(tmp_path / "store"), local)


async def test_rows_of_a_running_job_are_exported_and_gone_at_its_end(
    data_root: Path, held: ExitStack, tmp_path: Path
) -> None:
    port, during, total = unused_port(), "", 0
    options = ("--data-root", str(data_root), "--metrics-port", str(port), *BACKBONES)
    service = RecognizerProcess(tmp_path / "store", tmp_path, *options).start()
    try:
        async with RecognizerClient(service.client) as client:
            async for update in client.precompute(request("rows")):
                if update.event.precompute.phase == "extract" and not during:
                    total = update.event.precompute.rows_total
                    during = await asyncio.to_thread(metrics_page, port)
                    held.close()
        after = await metrics_page_without_jobs(port)
    finally:
        service.kill()
    assert f'stal_job_rows{{phase="extract",run_id="rows"}} {float(total)}' in during
    done = re.search(r'^stal_job_rows_done\{phase="extract",run_id="rows"\} (\S+)$', during, re.MULTILINE)
    progress = re.search(r'^stal_job_progress_ratio\{run_id="rows"\} (\S+)$', during, re.MULTILINE)
    assert done is not None
    assert progress is not None
    assert 0 <= float(done[1]) < total
    assert float(progress[1]) == pytest.approx(float(done[1]) / total)
    assert "stal_job_rows{" not in after


async def test_a_set_is_filled_although_one_of_two_machines_is_lost(
    services: list[RecognizerProcess], held: ExitStack, local: Store, tmp_path: Path
) -> None:
    first, second = services
    store = Store.open(tmp_path / "store")
    lost = False

    def progress(phase: str, done: int, total: int) -> None:
        nonlocal lost
        if phase == "extract" and done and not lost:
            first.kill()
            kill_all(job_processes(store.jobs_dir / "shared-1", 0))
            held.close()
            lost = True

    clients = [first.client, second.client]
    sets = await precompute_at(clients, request("shared"), progress=progress, note=print)
    assert lost
    assert [(found.view, found.rows) for found in sets] == [("identity", NUM_ROWS), ("hflip", NUM_ROWS)]
    check_equal(store, local)


async def test_what_is_refused(data_root: Path, tmp_path: Path) -> None:
    from cache.backbones.choice import BackboneChoice

    store = Store.open(tmp_path / "store", create=True)
    tiny = BackboneChoice(kind="vit", preset="tiny", weights="random:1")
    limits = JobLimits(data_root=data_root, backbones=(tiny,), max_jobs=1, max_queued=0)
    wanted = FeatureRequest(dataset="sets/noise", split="train")
    good = PrecomputeSubmission(run_id="one", wanted=wanted)

    async def submit(limits: JobLimits, **changes: object) -> None:
        await JobManager(store, limits).submit(replace(good, wanted=replace(wanted, **changes)))

    (data_root / "link").symlink_to(tmp_path)
    for limit, changes, error, text in (
        (limits, {"dataset": "../outside"}, InputError, "outside the service's data root"),
        (limits, {"dataset": "link"}, InputError, "outside the service's data root"),
        (limits, {"dataset": "sets/other"}, NotFoundError, "'sets/other' does not exist"),
        (limits, {"split": "trian"}, NotFoundError, "train"),
        (limits, {"statistics": ("fast=mean",)}, InputError, "no backbone has the map 'fast'"),
        (replace(limits, backbones=()), {}, ConflictError, "serve recognizer --slowfast FILE"),
        (replace(limits, data_root=None), {}, ConflictError, "--data-root DIR"),
        (replace(limits, backbones=(tiny, tiny)), {}, ConflictError, "several weights of vit"),
    ):
        with pytest.raises(error, match=text):
            await submit(limit, **changes)
    (data_root / "link").unlink()
    with pytest.raises(InputError, match="dtype is 'int8'"):
        replace(wanted, dtype="int8")
    assert not store.jobs_dir.exists()
    jobs = JobManager(store, limits)
    record = await jobs.submit(good)
    try:
        with pytest.raises(BusyError):
            await jobs.submit(replace(good, run_id="two"))
        with pytest.raises(BusyError if jobs.active() else ConflictError):
            await jobs.submit(good)
        ended = await jobs.cancel(record.run_id)
        assert ended.status.ended
        with pytest.raises(ConflictError, match="choose another job_id"):
            await jobs.submit(good)
    finally:
        await jobs.drain(cancel_jobs=True)
        await jobs.stop()
    assert RunDir(store.jobs_dir / "one").request.exists()


@pytest.mark.parametrize("words", [("--device", "cpu"), ("--vit", "random:1"), ("--store", "store"), ("--estimate",)])
def test_options_of_this_machine(words: tuple[str, ...]) -> None:
    done = stal_cli("precompute", "noise", "--split", "train", "--recognizer", "127.0.0.1:1", *words)
    assert done.returncode == 2
    assert f"{words[0]}: not with --recognizer" in done.stderr
