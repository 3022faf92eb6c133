"""Clients wait for a service that is just starting, and only then."""

import asyncio
import logging
from collections.abc import Iterator

import pytest

from recognizer_svc.client import RecognizerClient
from svc_common.config import ClientConfig, ServerConfig
from svc_common.errors import ServiceUnavailableError
from svc_common.probe import probe
from svc_common.server import ServiceServer
from svc_common.waiting import wait_for_start
from tests.services.echo import EchoService
from tests.services.recognizer_process import unused_port


class Told(logging.Handler):
    """Lets a test wait for the first message."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.first = asyncio.Event()

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())
        self.first.set()


@pytest.fixture
def told() -> Iterator[Told]:
    logger, handler = logging.getLogger("svc_common.waiting"), Told()
    logger.addHandler(handler)
    yield handler
    logger.removeHandler(handler)


async def test_a_client_waits_until_a_port_is_bound_and_the_service_is_loaded(told: Told) -> None:
    config = ClientConfig(address=f"127.0.0.1:{unused_port()}", wait_s=600)
    waiting = asyncio.create_task(wait_for_start([config]))
    await told.first.wait()
    loaded = asyncio.Event()
    server = ServiceServer(ServerConfig(port=config.endpoint[1]), [EchoService(load=loaded)], name="echo")
    starting = asyncio.create_task(server.start())
    try:
        while True:  # until the port is bound: then nothing is refused, and the service is not ready
            try:
                await probe(config, service="live", timeout_s=5)
                break
            except Exception:  # noqa: BLE001 - bound a moment later
                await asyncio.sleep(0)
        assert not waiting.done()
        loaded.set()
        await waiting
        await probe(config, service="", timeout_s=60)
    finally:
        loaded.set()
        await starting
        await server.stop(0)
    assert told.texts == [f"Waiting up to 600 s for the service at {config.address} to start (--wait-s)."]


async def test_one_ready_replica_is_enough(told: Told) -> None:
    server = ServiceServer(ServerConfig(), [EchoService()], name="echo")
    await server.start()
    try:
        ready = ClientConfig(address=f"127.0.0.1:{server.port}", wait_s=600)
        await wait_for_start([ClientConfig(address=f"127.0.0.1:{unused_port()}", wait_s=600), ready])
    finally:
        await server.stop(0)
    assert not told.texts


@pytest.mark.parametrize(
    ("address", "wait_s"), [("dns:///no.such.name.invalid:1", 600), ("127.0.0.1:1", 0)], ids=["no name", "told not to"]
)
async def test_nobody_waits_where_it_does_not_help(told: Told, address: str, wait_s: float) -> None:
    await wait_for_start([ClientConfig(address=address, wait_s=wait_s, insecure=True)])
    assert not told.texts


async def test_waiting_ends_in_time_and_leaves_the_error_to_the_call(told: Told) -> None:
    await wait_for_start([ClientConfig(address=f"127.0.0.1:{unused_port()}", wait_s=0.01)])
    assert len(told.texts) == 1


async def test_a_name_without_an_address_is_an_error_that_says_so_at_once(told: Told) -> None:
    config = ClientConfig(address="no.such.name.invalid:1", wait_s=600, insecure=True)
    with pytest.raises(ServiceUnavailableError, match=r"no\.such\.name\.invalid:1 of the recognizer .*not resolve"):
        async with RecognizerClient(config) as recognizer:
            await recognizer.get_info()
    assert not told.texts
