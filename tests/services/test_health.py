"""Health watches: what they see, how many a client has, and that they hold up nothing."""

import asyncio

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from protos.generated import detector_pb2 as pb
from svc_common.config import ServerConfig
from svc_common.health import WATCHES_PER_CLIENT
from svc_common.server import ServiceServer
from tests.services.echo import EchoService, calling, serving

States = health_pb2.HealthCheckResponse


def watch(channel: grpc.aio.Channel, service: str = "") -> "grpc.aio.UnaryStreamCall":
    return health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service=service), timeout=60)


async def test_a_watch_sees_the_service_start_and_stop_and_ends_with_it() -> None:
    service = EchoService(load=asyncio.Event())
    server = ServiceServer(ServerConfig(metrics_port=0), [service], name="echo")
    starting = asyncio.create_task(server.start())
    while server.metrics_port is None:
        await asyncio.sleep(0)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        seen = [watch(channel), watch(channel, EchoService.full_name)]
        assert [(await call.read()).status for call in seen] == [States.NOT_SERVING] * 2
        assert (await watch(channel, "live").read()).status == States.SERVING
        assert (await watch(channel, "no.such.Service").read()).status == States.SERVICE_UNKNOWN
        service.load.set()
        await starting
        assert [(await call.read()).status for call in seen] == [States.SERVING] * 2
        await asyncio.wait_for(server.stop(600), 120)  # not the whole grace time for those who only watch
        assert [(await call.read()).status for call in seen] == [States.NOT_SERVING] * 2
        assert [await call.read() for call in seen] == [grpc.aio.EOF] * 2


async def test_an_address_has_so_many_watches_over_all_its_connections() -> None:
    async with serving() as (server, _), calling(server.port) as stub:
        channels = [
            grpc.aio.insecure_channel(f"127.0.0.1:{server.port}", [("grpc.use_local_subchannel_pool", 1)])
            for _ in range(2)
        ]
        try:
            watches = [watch(channels[number % 2]) for number in range(WATCHES_PER_CLIENT)]
            assert [(await call.read()).status for call in watches] == [States.SERVING] * WATCHES_PER_CLIENT
            with pytest.raises(grpc.aio.AioRpcError, match="32 health watches of this client") as caught:
                await watch(channels[0]).read()
            assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert (await stub.GetInfo(pb.GetInfoRequest())).name == "echo"
            watches[0].cancel()
            async with asyncio.timeout(120):
                while await state_of(watch(channels[1])) is None:
                    await asyncio.sleep(0)
        finally:
            for channel in channels:
                await channel.close()


async def state_of(call: "grpc.aio.UnaryStreamCall") -> int | None:
    """The first state that the watch sees; None when it is refused."""
    try:
        return (await call.read()).status
    except grpc.aio.AioRpcError:
        return None
