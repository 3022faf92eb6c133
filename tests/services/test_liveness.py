"""When a process is not live any more: a hung event loop, a background task that has ended."""

import asyncio
import threading
import urllib.error
import urllib.request

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from protos.generated import detector_pb2 as pb
from svc_common import liveness
from tests.services.echo import EchoService, Working, calling, serving

States = health_pb2.HealthCheckResponse
TIMEOUT_S = 120


def get(port: int, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=TIMEOUT_S) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


async def test_a_hung_event_loop_is_neither_live_nor_ready_until_it_turns_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(liveness, "STALLED_S", 2.0)
    async with serving(metrics_port=0) as (server, _):
        seen: dict[str, tuple[int, str]] = {}
        hung, noticed = threading.Event(), threading.Event()

        def probe() -> None:
            hung.wait(TIMEOUT_S)
            while get(server.metrics_port, "/live")[0] == 200:
                pass
            seen.update({path: get(server.metrics_port, path) for path in ("/live", "/ready", "/other")})
            noticed.set()

        threading.Thread(target=probe, daemon=True).start()
        hung.set()
        assert noticed.wait(TIMEOUT_S)  # hangs: the loop is this thread's
        assert (seen["/live"][0], seen["/ready"][0], seen["/other"][0]) == (503, 503, 404)
        assert "the event loop has not turned for" in seen["/live"][1]
        async with asyncio.timeout(TIMEOUT_S):
            while (await asyncio.to_thread(get, server.metrics_port, "/live"))[0] != 200:
                pass
        assert (await asyncio.to_thread(get, server.metrics_port, "/ready"))[0] == 200


@pytest.mark.parametrize("how", ["fails", "returns", "is cancelled"])
async def test_a_background_task_that_ends_takes_the_service_out(how: str, caplog: pytest.LogCaptureFixture) -> None:
    service = Working()
    async with (
        serving(service, metrics_port=0) as (server, _),
        calling(server.port) as stub,
        grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel,
    ):
        health = health_pb2_grpc.HealthStub(channel)
        names = ("live", "", EchoService.full_name)
        watches = [health.Watch(health_pb2.HealthCheckRequest(service=name)) for name in names]
        assert [(await watch.read()).status for watch in watches] == [States.SERVING] * 3
        if how == "is cancelled":  # as `stop` does
            service.work.cancel()
            assert (await stub.GetInfo(pb.GetInfoRequest())).name == "echo"
            assert (await asyncio.to_thread(get, server.metrics_port, "/live"))[0] == 200
            return
        if how == "fails":
            service.work.set_exception(RuntimeError("secret"))
        else:
            service.work.set_result(None)
        assert [(await watch.read()).status for watch in watches] == [States.NOT_SERVING] * 3
        for path in ("/live", "/ready"):
            code, text = await asyncio.to_thread(get, server.metrics_port, path)
            assert code == 503
            assert f"the task 'work' of {EchoService.full_name} has ended" in text
            assert "secret" not in text
        with pytest.raises(grpc.aio.AioRpcError, match=r"the task 'work' of .* has ended") as caught:
            await stub.GetInfo(pb.GetInfoRequest())
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    if how == "fails":
        assert "RuntimeError: secret" in caplog.text
