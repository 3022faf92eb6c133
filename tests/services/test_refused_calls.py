"""Calls that are turned away at the door leave a count and a line in the log."""

import asyncio
import re
from pathlib import Path

import grpc
import pytest

from protos.generated import detector_pb2 as pb
from svc_common import refusals
from svc_common.config import ServerConfig
from svc_common.logs import REQUEST_ID_HEADER
from svc_common.server import ServiceServer
from svc_common.version import VERSION_HEADER
from tests.services.conftest import metrics_page
from tests.services.echo import EchoService, calling, serving

METHOD = "/stal.detector.v2.Detector/GetInfo"


def counted(server: ServiceServer, code: str, method: str = METHOD) -> float:
    return server._metrics.registry.get_sample_value("stal_rpc_total", {"code": code, "method": method}) or 0.0


async def refused(port: int, method: str = METHOD, metadata: tuple[tuple[str, str], ...] = ()) -> grpc.StatusCode:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await channel.unary_unary(method)(b"", metadata=metadata, timeout=60)
        return caught.value.code()


def lines(caplog: pytest.LogCaptureFixture) -> list[tuple[str, dict[str, object]]]:
    found = [record for record in caplog.records if record.name == refusals.__name__]
    return [(record.getMessage(), record.__dict__["fields"]) for record in found]


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.write_text("0123456789abcdef\n")
    return path


async def test_a_missing_token_is_counted_and_logged_and_cannot_fill_log_or_metrics(
    token_file: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(token_file=token_file) as (server, _):
        for number in range(3):
            assert await refused(server.port) is grpc.StatusCode.UNAUTHENTICATED
            assert await refused(server.port, f"/made.up/{number}") is grpc.StatusCode.UNAUTHENTICATED
        assert counted(server, "UNAUTHENTICATED") == 3
        assert counted(server, "UNAUTHENTICATED", "unknown") == 3
        assert counted(server, "UNAUTHENTICATED", "/made.up/0") == 0
        ((message, fields),) = lines(caplog)
        assert "bearer token is missing or wrong" in message
        assert (fields["method"], fields["code"], fields["unlogged"]) == (METHOD, "UNAUTHENTICATED", 0)
        assert re.fullmatch(r"ipv4:127\.0\.0\.1:\d+", str(fields["peer"]))
        assert await refused(server.port, metadata=((VERSION_HEADER, "99.0"),)) is grpc.StatusCode.UNAUTHENTICATED
        monkeypatch.setattr(refusals, "LOG_EVERY_S", 0.0)
        assert await refused(server.port) is grpc.StatusCode.UNAUTHENTICATED
        assert lines(caplog)[1][1]["unlogged"] == 6


async def test_another_version_is_counted_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    async with serving(metrics_port=0) as (server, _):
        sent = ((VERSION_HEADER, "99.0"), (REQUEST_ID_HEADER, "pipeline-7"))
        assert await refused(server.port, metadata=sent) is grpc.StatusCode.FAILED_PRECONDITION
        assert counted(server, "FAILED_PRECONDITION") == 1
        page = await asyncio.to_thread(metrics_page, server.metrics_port)
        assert f'stal_rpc_total{{code="FAILED_PRECONDITION",method="{METHOD}"}} 1.0' in page
    assert "API version 99.0" in lines(caplog)[0][0]


async def test_a_call_before_the_service_is_ready_is_counted_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    service = EchoService(load=asyncio.Event())
    server = ServiceServer(ServerConfig(metrics_port=0), [service], name="echo")
    starting = asyncio.create_task(server.start())
    try:
        while server.metrics_port is None:
            await asyncio.sleep(0)
        assert await refused(server.port) is grpc.StatusCode.UNAVAILABLE
        assert counted(server, "UNAVAILABLE") == 1
        assert "starting or stopping" in lines(caplog)[0][0]
        service.load.set()
        await starting
        async with calling(server.port) as stub:
            assert (await stub.GetInfo(pb.GetInfoRequest())).name == "echo"
        assert counted(server, "OK") == 1
    finally:
        await server.stop(0)
