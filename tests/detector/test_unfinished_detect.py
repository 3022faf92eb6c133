"""`detect` over replicas that die, and what the same command does afterwards."""

import asyncio
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from cache.proposal_store import Proposals, open_proposals
from cache.store import Store
from detector_svc.client.detector_client import model_of
from detector_svc.client.kept_answers import KeptAnswers
from detector_svc.client.split_detection import detect_split
from detector_svc.detections import FrameDetections
from stal_data.dataset import Dataset, Split
from stal_data.keyframes import KeyFrame
from svc_common.errors import ServiceUnavailableError
from tests.detector.replica import Replica, ReplicaService, client_of, replicas, until
from tests.detector.samples import ROOT, encoded, make_server, picture, serving, start, write_dataset

KEY_FRAMES = 57
STOP_AFTER = 20


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> Split:
    return Dataset.open(write_dataset(tmp_path_factory.mktemp("long") / "small", seconds=20)).split("train")


@contextmanager
def process(weights: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A service process and its address."""
    started = start("--weights", weights, "--image-size", "90x160", "--confidence", 0.5, "--device", "cpu", "--port", 0)
    try:
        assert started.stdout is not None
        yield started, started.stdout.readline().split()[-1]
    finally:
        started.kill()
        started.communicate()


def proposals(store: Store) -> Proposals:
    return open_proposals(store, "small", "train")


async def test_a_killed_and_a_draining_replica_change_nothing_in_the_result(
    weights: Path, split: Split, tmp_path: Path
) -> None:
    stores = [Store.open(tmp_path / name, create=True) for name in ("alone", "killed", "drained")]
    draining = make_server(weights)
    draining_at = f"127.0.0.1:{await draining.start()}"
    stopping: list[asyncio.Task[None]] = []
    with process(weights) as (killed, killed_at):
        async with serving(weights) as staying:
            staying_at = f"127.0.0.1:{staying.port}"

            async def run(store: Store, *addresses: str, at_20: Callable[[], object] = bool) -> None:
                client = client_of(*addresses, window=24)
                await detect_split(
                    split, store, client, progress=lambda done, total: at_20() if done == STOP_AFTER else None
                )

            await run(stores[0], staying_at)
            await run(stores[1], staying_at, killed_at, at_20=killed.kill)
            await run(
                stores[2],
                staying_at,
                draining_at,
                at_20=lambda: stopping.append(asyncio.create_task(draining.stop(30))),
            )
            await asyncio.gather(*stopping)
    alone = proposals(stores[0])
    assert len(alone.key_frames) == KEY_FRAMES
    for store in stores[1:]:
        found = proposals(store)
        assert found.key_frames == alone.key_frames
        assert found.detector == alone.detector
        np.testing.assert_array_equal(found.offsets_K1, alone.offsets_K1)
        np.testing.assert_array_equal(found.boxes_N4, alone.boxes_N4)
        np.testing.assert_array_equal(found.scores_N, alone.scores_N)


async def break_off(split: Split, store: Store) -> int:
    """Detect until the only service is gone; how many answers were kept."""
    async with replicas(ReplicaService()) as (only,):
        client = client_of(only.address)
        gone: list[asyncio.Task[None]] = []

        def progress(done: int, total: int) -> None:
            if done == STOP_AFTER:
                only.service.answering.clear()
                gone.append(asyncio.create_task(only.stop()))

        with pytest.raises(ServiceUnavailableError) as caught:
            await detect_split(split, store, client, progress=progress)
        await asyncio.gather(*gone)
    assert not list(store.root.glob("**/*.h5"))
    said = re.search(rf"(\d+) of {KEY_FRAMES} key frames have their answers, which are kept", str(caught.value))
    assert said is not None, str(caught.value)
    # An answer may have been on its way when its connection was cut.
    assert STOP_AFTER <= int(said[1]) <= len(only.service.answered) < KEY_FRAMES
    return int(said[1])


async def finish(split: Split, store: Store, service: ReplicaService) -> None:
    async with replicas(service) as (only,):
        client = client_of(only.address)
        _, found = await detect_split(split, store, client)
    assert len(found.key_frames) == len(found.boxes_N4) == KEY_FRAMES
    assert len(proposals(store).key_frames) == KEY_FRAMES
    assert not list(store.root.glob("**/.*"))


async def test_the_same_command_sends_only_the_rest(split: Split, tmp_path: Path) -> None:
    store = Store.open(tmp_path / "store", create=True)
    kept = await break_off(split, store)
    service = ReplicaService()
    await finish(split, store, service)
    assert len(service.taken) == KEY_FRAMES - kept


@pytest.mark.parametrize("change", ["model", "damage", "truncated"])
async def test_kept_answers_that_do_not_fit_are_not_used(split: Split, tmp_path: Path, change: str) -> None:
    store = Store.open(tmp_path / "store", create=True)
    await break_off(split, store)
    (path,) = store.root.glob("**/.person.unfinished.npz")
    if change != "model":
        path.write_bytes(b"junk" if change == "damage" else path.read_bytes()[:-200])
    service = ReplicaService(**({"overlap": 0.5} if change == "model" else {}))
    await finish(split, store, service)
    assert len(service.taken) == KEY_FRAMES


async def test_a_changed_image_is_sent_again(tmp_path: Path) -> None:
    root = write_dataset(tmp_path / "small", seconds=20)
    store = Store.open(tmp_path / "store", create=True)
    kept = await break_off(Dataset.open(root).split("train"), store)
    (root / "frames" / "v0" / "v0_000029.png").write_bytes(encoded(picture(77)))
    service = ReplicaService()
    await finish(Dataset.open(root).split("train"), store, service)
    assert len(service.taken) == KEY_FRAMES - kept + 1
    assert "v0,0001" in service.taken


async def test_a_cancelled_detect_keeps_its_answers_too(split: Split, tmp_path: Path) -> None:
    store = Store.open(tmp_path / "store", create=True)
    async with replicas(ReplicaService()) as (only,):
        client = client_of(only.address)
        running = asyncio.create_task(detect_split(split, store, client))
        await until(lambda: len(only.service.answered) >= STOP_AFTER)
        only.service.answering.clear()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        path = next(store.root.glob("**/.person.unfinished.npz"))
        assert 0 < len(KeptAnswers(path, model_of(await client.info()))) < KEY_FRAMES


def test_kept_answers_are_of_their_time_to_the_millisecond(tmp_path: Path) -> None:
    path, model = tmp_path / "kept.npz", {"weights": "sha256:1"}
    kept = KeptAnswers(path, model)
    for number, time_ms in enumerate((7000, 7040, 7200)):
        found = FrameDetections(boxes_N4=np.zeros((number, 4), np.float32), scores_N=np.ones(number, np.float32))
        kept.add(str(KeyFrame("v", time_ms)), number, found)
    kept.save()
    again = KeptAnswers(path, model)
    for number, time_ms in enumerate((7000, 7040, 7200)):
        answer = again.get(str(KeyFrame("v", time_ms)), number)
        assert answer is not None
        assert len(answer) == number
    assert again.get(str(KeyFrame("v", 7001)), 0) is None


class Stopping(ReplicaService):
    """Answers no more once it has taken so many frames."""

    async def Detect(self, request_iterator, context):
        async def requests():
            async for request in request_iterator:
                if len(self.taken) == STOP_AFTER - 1:
                    self.answering.clear()
                yield request

        async for answer in super().Detect(requests(), context):
            yield answer


async def test_a_command_that_gets_sigterm_keeps_its_answers_and_dies_by_it(split: Split, tmp_path: Path) -> None:
    async with replicas(Stopping()) as (only,):
        command = [sys.executable, "-m", "cli.main", "detect", split.media.root.parent, "--split", "train"]
        options = ["--store", tmp_path / "store", "--detector", only.address, "--window", "4"]
        with subprocess.Popen([*command, *options], cwd=ROOT, stderr=subprocess.PIPE, text=True) as running:
            try:
                await until(lambda: len(only.service.taken) == STOP_AFTER or running.poll() is not None)
                running.send_signal(signal.SIGTERM)
                _, errors = await asyncio.to_thread(running.communicate, timeout=250)
            finally:
                running.kill()
        assert running.returncode == -signal.SIGTERM, errors
        client = client_of(only.address)
        model = model_of(await client.info())
    (path,) = (tmp_path / "store").glob("**/.person.unfinished.npz")
    assert STOP_AFTER - 4 <= len(KeptAnswers(path, model)) < STOP_AFTER  # with 4 in flight


async def test_both_gone_then_one_back(split: Split, tmp_path: Path) -> None:
    store = Store.open(tmp_path / "store", create=True)
    async with replicas(ReplicaService(), ReplicaService()) as (first, second):
        client = client_of(first.address, second.address)

        def progress(done: int, total: int) -> None:
            if done == STOP_AFTER:
                for replica in (first, second):
                    replica.service.answering.clear()
                    tasks.append(asyncio.create_task(replica.stop()))

        tasks: list[asyncio.Task[None]] = []
        with pytest.raises(ServiceUnavailableError, match="None of 2 detector replicas can be used") as caught:
            await detect_split(split, store, client, progress=progress)
        await asyncio.gather(*tasks)
        assert "the same command goes on with the rest" in str(caught.value)
        second.service.answering.set()
        second.service.taken.clear()
        await second.start()
        await again(split, store, first, second)
    assert len(proposals(store).key_frames) == KEY_FRAMES
    assert 0 < len(second.service.taken) <= KEY_FRAMES - STOP_AFTER


async def again(split: Split, store: Store, *both: Replica) -> None:
    client = client_of(*(replica.address for replica in both))
    await detect_split(split, store, client)
