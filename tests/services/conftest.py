"""One store, one service and one trained run for all recognizer tests: starting torch takes seconds each time."""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from cache.store import Store
from protos.generated import recognizer_pb2 as pb
from recognizer_svc.client import RecognizerClient
from tests.recognizer.toy_store import ACAR, make_store
from tests.services.recognizer_process import RecognizerProcess

TRAINED = "trained"


@dataclass(frozen=True)
class Trained:
    """A running service whose store holds the run `trained`. updates: what its client saw of the training."""

    store: Store
    service: RecognizerProcess
    updates: list[pb.JobUpdate]


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trained]:
    folder = tmp_path_factory.mktemp("recognizer")
    store = make_store(folder / "store")
    service = RecognizerProcess(store.root, folder).start()
    try:
        yield Trained(store, service, asyncio.run(_train(service)))
    finally:
        service.kill()


async def _train(service: RecognizerProcess) -> list[pb.JobUpdate]:
    """Two real ranks over gloo."""
    launch = pb.Launch(nproc_per_node=2, backend="gloo")
    request = pb.TrainRequest(run_id=TRAINED, recipe=ACAR, overrides=["training.epochs=3"], launch=launch)
    async with RecognizerClient(service.client) as client:
        return [update async for update in client.train(request)]
