"""One client cannot take what the others need: calls of one address, streams that nobody reads or writes."""

import asyncio
import time

import grpc
import pytest

from protos.generated import detector_pb2 as pb
from svc_common import server as server_module
from svc_common.interceptors import CallInterceptor
from tests.services.echo import EchoService, calling, serving

ADDRESS_LIMIT = 5
READ_TIMEOUT_S = 2.0


@pytest.fixture
def tight(monkeypatch: pytest.MonkeyPatch) -> None:
    """The service's own interceptor with bounds that a test reaches at once."""

    def make(metrics: object, **options: object) -> CallInterceptor:
        return CallInterceptor(metrics, **options, calls_per_client=ADDRESS_LIMIT, read_timeout_s=READ_TIMEOUT_S)

    monkeypatch.setattr(server_module, "CallInterceptor", make)


@pytest.mark.usefixtures("tight")
async def test_an_address_has_so_many_calls_over_all_its_connections() -> None:
    async with serving() as (server, service), calling(server.port) as one, calling(server.port) as other:
        waiting = [stub.GetInfo(pb.GetInfoRequest(), timeout=60) for stub in (one, one, one, other, other)]
        while sum(metric_value(server)) < ADDRESS_LIMIT:
            await asyncio.sleep(0)
        with pytest.raises(grpc.aio.AioRpcError, match="5 calls of this client are in progress") as caught:
            await other.GetInfo(pb.GetInfoRequest())
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        service.release.set()
        assert {(await call).name for call in waiting} == {"echo"}
        assert (await other.GetInfo(pb.GetInfoRequest())).name == "echo"


def metric_value(server: object) -> list[float]:
    family = next(family for family in server._metrics.running.collect())
    return [sample.value for sample in family.samples]


class Talker(EchoService):
    """Answers without end, and notes when it was stopped."""

    def __init__(self) -> None:
        super().__init__()
        self.closed = asyncio.Event()

    async def Propose(self, request, context):
        try:
            while True:
                yield pb.ProposeResponse(header=pb.ProposeHeader(dataset="x" * 50_000))
        finally:
            self.closed.set()


@pytest.mark.usefixtures("tight")
async def test_a_stream_that_nobody_reads_frees_what_it_holds() -> None:
    service = Talker()
    async with serving(service) as (server, _), calling(server.port) as stub:
        call = stub.Propose(pb.ProposeRequest())
        answers = aiter(call)
        await anext(answers)
        await asyncio.wait_for(service.closed.wait(), 120)
        assert (await stub.GetInfo(pb.GetInfoRequest())).name == "echo"
        with pytest.raises(grpc.aio.AioRpcError, match=r"took no answer for 2 s"):
            async for _ in answers:
                pass


@pytest.mark.usefixtures("tight")
async def test_a_stream_that_is_read_may_last_longer() -> None:
    async with serving(Talker()) as (server, _), calling(server.port) as stub:
        answers, end = aiter(stub.Propose(pb.ProposeRequest())), time.monotonic() + 1.5 * READ_TIMEOUT_S
        while time.monotonic() < end:
            assert (await anext(answers)).header.dataset
