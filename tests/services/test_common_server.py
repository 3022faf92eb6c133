"""The plumbing of both services, with real servers and channels on loopback."""

import asyncio
import urllib.error
import urllib.request
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from protos.generated import detector_pb2 as pb
from recognizer_svc.client import RecognizerClient
from stal_data.errors import ConflictError, InputError, NotFoundError, StalError
from svc_common.client import RetryPolicy, call_with_retries, open_channel
from svc_common.config import ClientConfig, ServerConfig
from svc_common.errors import (
    AccessError,
    BusyError,
    DeadlineError,
    ServiceError,
    ServiceUnavailableError,
    error_of,
    shorten,
    status_of,
)
from svc_common.server import ServiceServer
from tests.services.certificates import make_authority, make_certificate, redate
from tests.services.echo import EchoService, calling, serving, stal_error

SERVICE = EchoService.full_name
SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


async def frames(*names: str):
    for name in names:
        yield pb.DetectRequest(frame_id=name)


async def no_frames_yet():
    """For a stream that is refused: grpc.aio would lose its status if it ended during a write."""
    await asyncio.Event().wait()
    yield pb.DetectRequest()


async def health(port: int, service: str) -> int:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        return (await stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=60)).status


def get(port: int, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=60) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


ERRORS = (InputError, NotFoundError, ConflictError, BusyError, DeadlineError, AccessError, ServiceUnavailableError)


@pytest.mark.parametrize("kind", ERRORS)
async def test_errors_cross_the_wire_in_every_arity(kind: type[StalError]) -> None:
    error = stal_error(kind)
    async with serving(EchoService(error)) as (server, _), calling(server.port) as stub:

        async def unary() -> None:
            await stub.GetInfo(pb.GetInfoRequest())

        async def server_stream() -> None:
            async for _ in stub.Propose(pb.ProposeRequest()):
                pass

        async def both_stream() -> None:
            async for _ in stub.Detect(frames("a", "fail")):
                pass

        for call in (unary, server_stream, both_stream):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call()
            assert caught.value.code() is status_of(error)[0]
            back = error_of(caught.value, service="detector", address="127.0.0.1:1")
            assert type(back) is kind
            assert str(error) in str(back)


async def test_an_unknown_exception_is_internal_and_keeps_its_text(caplog: pytest.LogCaptureFixture) -> None:
    async with serving(EchoService(RuntimeError("secret path"))) as (server, _), calling(server.port) as stub:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.GetInfo(pb.GetInfoRequest())
    assert caught.value.code() is grpc.StatusCode.INTERNAL
    assert "secret" not in (caught.value.details() or "")
    assert "secret path" in caplog.text
    assert type(error_of(caught.value, service="detector", address="h:1")) is ServiceError


async def test_the_address_of_the_other_service_is_named_as_such() -> None:
    async with serving() as (server, _), RecognizerClient(ClientConfig(address=f"127.0.0.1:{server.port}")) as other:
        with pytest.raises(ServiceError, match=r"not as a recognizer service .*what 'stal-cli serve recognizer' start"):
            await other.get_info()


@pytest.mark.parametrize(
    ("error", "details"),
    [
        (
            PermissionError(13, "Permission denied", "/store/x"),
            "'/store/x': Permission denied, on the service's machine.",
        ),
        (
            OSError(18, "Invalid cross-device link", b"/a", None, b"/b"),
            "'/a' and '/b': Invalid cross-device link, on the service's machine.",
        ),
        (OSError(28, "No space left on device"), "No space left on device, on the service's machine."),
    ],
)
async def test_an_error_of_the_system_arrives_with_file_and_reason(error: OSError, details: str) -> None:
    async with serving(EchoService(error)) as (server, _), calling(server.port) as stub:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.GetInfo(pb.GetInfoRequest())
    assert (caught.value.code(), caught.value.details()) == (grpc.StatusCode.FAILED_PRECONDITION, details)
    assert str(error_of(caught.value, service="detector", address="h:1")) == details


async def test_long_error_texts_arrive_shortened() -> None:
    async with serving(EchoService(InputError("ä" * 100_000))) as (server, _), calling(server.port) as stub:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.GetInfo(pb.GetInfoRequest())
    assert (caught.value.details() or "").startswith("ääää")
    assert shorten("short") == "short"


async def test_live_before_ready_and_calls_wait_for_ready(tmp_path: Path) -> None:
    service = EchoService(load=asyncio.Event())
    config = ServerConfig(metrics_port=0, port_file=tmp_path / "run" / "port")
    server = ServiceServer(config, [service], name="echo")
    starting = asyncio.create_task(server.start())
    try:
        while server.metrics_port is None:
            await asyncio.sleep(0)
        assert await health(server.port, "live") == SERVING
        assert await health(server.port, "") == await health(server.port, SERVICE) == NOT_SERVING
        assert (await asyncio.to_thread(get, server.metrics_port, "/live"))[0] == 200
        assert (await asyncio.to_thread(get, server.metrics_port, "/ready"))[0] == 503
        assert not config.port_file.exists()
        async with calling(server.port) as stub:
            with pytest.raises(grpc.aio.AioRpcError, match="starting"):
                await stub.GetInfo(pb.GetInfoRequest())
            service.load.set()
            port = await starting
            assert (await stub.GetInfo(pb.GetInfoRequest())).name == "echo"
        assert int(config.port_file.read_text()) == port
        assert await health(port, "") == await health(port, SERVICE) == SERVING
        assert (await asyncio.to_thread(get, server.metrics_port, "/ready"))[0] == 200
    finally:
        await server.stop(0)
    assert service.stopped


async def test_metrics_count_calls_by_method_and_status() -> None:
    async with serving(metrics_port=0) as (server, _), calling(server.port) as stub:
        await stub.GetInfo(pb.GetInfoRequest())
        _, text = await asyncio.to_thread(get, server.metrics_port, "/metrics")
        assert 'stal_rpc_total{code="OK",method="/stal.detector.v2.Detector/GetInfo"} 1.0' in text
        assert (await asyncio.to_thread(get, server.metrics_port, "/other"))[0] == 404


async def test_a_port_in_use_is_a_clear_error() -> None:
    async with serving() as (server, _):
        second = ServiceServer(ServerConfig(port=server.port), [EchoService()], name="echo")
        with pytest.raises(ConflictError, match=rf"127.0.0.1:{server.port} cannot be bound: Address already in use"):
            await second.start()
        third = ServiceServer(ServerConfig(metrics_port=server.port), [EchoService()], name="echo")
        with pytest.raises(ConflictError, match="--metrics-port"):
            await third.start()


@pytest.mark.parametrize("limits", [(2000, 100_000), (100_000, 2000)], ids=["server", "client"])
async def test_a_message_over_the_limit_says_what_to_raise(limits: tuple[int, int]) -> None:
    server_limit, client_limit = limits
    async with (
        serving(max_message_bytes=server_limit) as (server, _),
        calling(server.port, max_message_bytes=client_limit) as stub,
    ):

        async def large():
            yield pb.DetectRequest(frame_id="a", image=bytes(5000))

        with pytest.raises(grpc.aio.AioRpcError) as caught:
            async for _ in stub.Detect(large()):
                pass
    error = error_of(caught.value, service="detector", address="h:1")
    assert isinstance(error, InputError)
    assert "--max-message-mb" in str(error)


async def test_the_deadline_reaches_the_service() -> None:
    async with serving() as (server, service), calling(server.port) as stub:
        waiting = stub.GetInfo(pb.GetInfoRequest(), timeout=60)
        await service.entered.wait()  # it waits there for as long as it has a deadline
        assert service.time_remaining is not None
        assert 0 < service.time_remaining < 70  # gRPC rounds a deadline up on its way
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.GetInfo(pb.GetInfoRequest(), timeout=0.01)
        assert isinstance(error_of(caught.value, service="detector", address="h:1"), DeadlineError)
        service.release.set()
        assert (await waiting).name == "echo"


async def test_draining_lets_running_calls_finish() -> None:
    async with serving() as (server, service), calling(server.port) as stub:
        call = stub.GetInfo(pb.GetInfoRequest(), timeout=30)
        await service.entered.wait()
        port = server.port
        await server.stop()  # `drain` releases the call
        assert (await call).name == "echo"
        assert service.stopped
        with pytest.raises(grpc.aio.AioRpcError):
            await health(port, "live")


async def test_a_service_that_fails_to_end_keeps_no_other_from_it(caplog: pytest.LogCaptureFixture) -> None:
    class Failing(EchoService):
        async def drain(self) -> None:
            raise RuntimeError("no drain")

        async def stop(self) -> None:
            raise RuntimeError("no stop")

    service = EchoService()
    server = ServiceServer(ServerConfig(), [Failing(), service], name="echo")
    port = await server.start()
    await server.stop(0)
    assert service.release.is_set()  # drained
    assert service.stopped
    assert "no drain" in caplog.text
    assert "no stop" in caplog.text
    with pytest.raises(grpc.aio.AioRpcError):
        await health(port, "live")


async def test_token(tmp_path: Path) -> None:
    right, wrong = tmp_path / "right", tmp_path / "wrong"
    right.write_text("r" * 20 + "\n")
    wrong.write_text("w" * 20)
    async with serving(token_file=right) as (server, _):
        async with calling(server.port, token_file=right) as stub:
            assert (await stub.GetInfo(pb.GetInfoRequest())).name == "echo"
            assert [answer.frame_id async for answer in stub.Detect(frames("a", "b"))] == ["a", "b"]
        for config in ({}, {"token_file": wrong}):
            async with calling(server.port, **config) as stub:
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await stub.GetInfo(pb.GetInfoRequest())
                assert isinstance(error_of(caught.value, service="detector", address="h:1"), AccessError)
                with pytest.raises(grpc.aio.AioRpcError, match="UNAUTHENTICATED"):
                    async for _ in stub.Detect(no_frames_yet()):
                        pass
        assert await health(server.port, "") == SERVING  # probes carry no token


async def test_tls_and_client_certificates(tmp_path: Path) -> None:
    authority, other = make_authority(tmp_path / "a", "ca"), make_authority(tmp_path / "b", "other")
    cert, key = make_certificate(authority, "server")
    client_cert, client_key = make_certificate(authority, "client")
    stranger_cert, stranger_key = make_certificate(other, "stranger")
    tls = {"tls_cert": cert, "tls_key": key}
    async with serving(**tls) as (server, _):
        async with calling(server.port, tls_ca=authority.certificate) as stub:
            assert (await stub.GetInfo(pb.GetInfoRequest())).name == "echo"
        for config in ({}, {"tls_ca": other.certificate}):
            async with calling(server.port, **config) as stub:
                with pytest.raises(grpc.aio.AioRpcError, match="UNAVAILABLE"):
                    await stub.GetInfo(pb.GetInfoRequest())
    async with serving(**tls, tls_ca=authority.certificate) as (server, _):
        good = {"tls_ca": authority.certificate, "tls_cert": client_cert, "tls_key": client_key}
        async with calling(server.port, **good) as stub:
            assert (await stub.GetInfo(pb.GetInfoRequest())).name == "echo"
        for bad in ({}, {"tls_cert": stranger_cert, "tls_key": stranger_key}):
            async with calling(server.port, tls_ca=authority.certificate, **bad) as stub:
                with pytest.raises(grpc.aio.AioRpcError, match="UNAVAILABLE"):
                    await stub.GetInfo(pb.GetInfoRequest())


@pytest.mark.parametrize("days_from_now", [(-3, -1), (1, 3)], ids=["expired", "not yet valid"])
async def test_certificates_are_refused_outside_their_time_on_both_sides(
    tmp_path: Path, days_from_now: tuple[int, int]
) -> None:
    authority = make_authority(tmp_path, "ca")
    pairs = {name: make_certificate(authority, name) for name in ("server", "client", "late_server", "late_client")}
    for name in ("late_server", "late_client"):
        redate(authority, pairs[name][0], days_from_now=days_from_now)

    async def call(server_pair: str, client_pair: str) -> str:
        cert, key = pairs[server_pair]
        mine, my_key = pairs[client_pair]
        ca = authority.certificate
        async with (
            serving(tls_cert=cert, tls_key=key, tls_ca=ca) as (server, _),
            calling(server.port, tls_ca=ca, tls_cert=mine, tls_key=my_key) as stub,
        ):
            return (await stub.GetInfo(pb.GetInfoRequest())).name

    assert await call("server", "client") == "echo"
    for refused in (("late_server", "client"), ("server", "late_client")):
        with pytest.raises(grpc.aio.AioRpcError, match="UNAVAILABLE"):
            await call(*refused)


async def test_broken_certificates_are_named(tmp_path: Path) -> None:
    (tmp_path / "bad.pem").write_text("no certificate")
    config = ServerConfig(tls_cert=tmp_path / "bad.pem", tls_key=tmp_path / "bad.pem")
    with pytest.raises(InputError, match="valid PEM"):
        await ServiceServer(config, [EchoService()], name="echo").start()


@pytest.mark.parametrize("on", [True, False])
async def test_reflection_only_behind_its_flag(on: bool) -> None:
    async with (
        serving(reflection=on) as (server, _),
        open_channel(ClientConfig(address=f"127.0.0.1:{server.port}")) as ch,
    ):

        async def asking():
            yield reflection_pb2.ServerReflectionRequest(list_services="")

        call = reflection_pb2_grpc.ServerReflectionStub(ch).ServerReflectionInfo(asking())
        if on:
            (answer,) = [answer async for answer in call]
            assert SERVICE in {service.name for service in answer.list_services_response.service}
        else:
            with pytest.raises(grpc.aio.AioRpcError, match="UNIMPLEMENTED"):
                [answer async for answer in call]


async def test_retries_last_until_the_service_is_there() -> None:
    async with serving() as (server, _):
        port = server.port
    attempts = 0

    async with calling(port) as stub:

        async def call() -> str:
            nonlocal attempts
            attempts += 1
            if attempts == 2:
                await late.start()
            return (await stub.GetInfo(pb.GetInfoRequest())).name

        late = ServiceServer(ServerConfig(port=port), [EchoService()], name="echo")
        try:
            policy = RetryPolicy(retries=8, first_s=0.1, max_s=0.5)
            assert await call_with_retries(call, service="detector", address="h:1", policy=policy) == "echo"
        finally:
            await late.stop(0)
    assert attempts >= 2


async def test_a_service_that_is_not_running_says_how_to_start_it() -> None:
    async with serving() as (server, _):
        port = server.port
    async with calling(port) as stub:
        with pytest.raises(ServiceUnavailableError, match=rf"stal-cli serve detector --port {port}"):
            await call_with_retries(
                lambda: stub.GetInfo(pb.GetInfoRequest()),
                service="detector",
                address=f"127.0.0.1:{port}",
                policy=RetryPolicy(retries=1, first_s=0.01),
            )


async def test_refusals_are_not_retried() -> None:
    service = EchoService(InputError("no"))
    attempts = 0
    async with serving(service) as (server, _), calling(server.port) as stub:

        async def call() -> object:
            nonlocal attempts
            attempts += 1
            return await stub.GetInfo(pb.GetInfoRequest())

        with pytest.raises(InputError, match="no"):
            await call_with_retries(call, service="detector", address="h:1")
    assert attempts == 1
