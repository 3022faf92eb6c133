"""One store, one service and one trained run for all recognizer tests: starting torch takes seconds each time.

Tests of the job manager have stores of their own, and launchers that are quick scripts.
"""

import asyncio
import resource
import signal
import sys
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from cache.store import Store
from protos.generated import recognizer_pb2 as pb
from recognizer_svc.client import RecognizerClient
from recognizer_svc.runs.record import Launch
from recognizer_svc.runs.run_dir import JobFiles
from recognizer_svc.service import launch as launching
from tests.recognizer.toy_store import ACAR, make_store
from tests.services.job_listeners import listening_addresses
from tests.services.job_scripts import PREAMBLE, Launcher
from tests.services.recognizer_process import RecognizerProcess, unused_port
from tests.services.video_case import VideoCase

TRAINED = "trained"


@dataclass(frozen=True)
class Trained:
    """A running service whose store holds the run `trained`. It logs JSON and serves metrics.

    Tests share it, and may train more with it or restart it: what it said of this first run is kept here.

    updates: what its client saw of the training. during, after: its page of metrics at the first step, and once the
    job had ended. listening: where the job's processes listened at the first step. log: what the service had logged.
    """

    store: Store
    service: RecognizerProcess
    updates: list[pb.JobUpdate]
    during: str
    after: str
    listening: set[str]
    log: str


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trained]:
    folder = tmp_path_factory.mktemp("recognizer")
    store = make_store(folder / "store")
    port = unused_port()
    service = RecognizerProcess(store.root, folder, "--log-format", "json", "--metrics-port", str(port)).start()
    try:
        updates, during, after, listening = asyncio.run(_train(service, port, store.runs_dir / TRAINED))
        yield Trained(store, service, updates, during, after, listening, service.log)
    finally:
        service.kill()


async def _train(
    service: RecognizerProcess, metrics_port: int, run_dir: Path
) -> tuple[list[pb.JobUpdate], str, str, set[str]]:
    """Two real ranks over gloo."""
    updates, during, listening = [], "", set[str]()
    launch = pb.Launch(nproc_per_node=2, backend="gloo")
    request = pb.TrainRequest(run_id=TRAINED, recipe=ACAR, overrides=["training.epochs=3"], launch=launch)
    async with RecognizerClient(service.client) as client:
        async for update in client.train(request):
            updates.append(update)
            if not during and update.event.WhichOneof("event") == "step":
                during = await asyncio.to_thread(metrics_page, metrics_port)
                listening = listening_addresses(run_dir)  # the ranks are connected
    return updates, during, await metrics_page_without_jobs(metrics_port), listening


async def metrics_page_without_jobs(port: int) -> str:
    """The client may hear of the end a moment before the service has counted it."""
    async with asyncio.timeout(120):
        while 'stal_jobs{status="running"} 0.0' not in (page := await asyncio.to_thread(metrics_page, port)):
            await asyncio.sleep(0.02)
    return page


def metrics_page(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        return answer.read().decode()


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return make_store(tmp_path_factory.mktemp("store"), train=7, test=7, views=("identity",), vit=False)


@pytest.fixture(scope="session")
def video_case(tmp_path_factory: pytest.TempPathFactory) -> VideoCase:
    """Read only."""
    return VideoCase.make(tmp_path_factory.mktemp("video"))


@pytest.fixture
def store(toy: Store, tmp_path: Path) -> Store:
    """The toy store with runs of its own."""
    for folder in ("annotations", "features"):
        (tmp_path / folder).symlink_to(toy.root / folder)
    return Store.open(tmp_path)


@pytest.fixture
def launcher(monkeypatch: pytest.MonkeyPatch) -> Launcher:
    """Let jobs run the given script instead of torch elastic."""

    def use(script: str) -> None:
        def command(files: JobFiles, how: Launch, *, local_address: str, data_root: Path | None) -> list[str]:
            return [sys.executable, "-c", PREAMBLE + script, "--job-dir", str(files.run.root)]

        monkeypatch.setattr(launching, "command", command)

    return use


@pytest.fixture
def limited_files() -> Iterator[Callable[[int], None]]:
    """Return a function that limits how large this process' files may grow, in bytes; -1 is no limit."""
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
