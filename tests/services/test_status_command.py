"""`stal-cli status` against running services, one that starts, one that refuses, and one that is not there."""

import asyncio
import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from cache.store import Store
from cli.main import root
from cli.ui.service_status import ServiceToAsk, ask_all
from cli.ui.services_file import read_services
from protos.generated import detector_pb2 as pb
from protos.generated import recognizer_pb2
from recognizer_svc.client import RecognizerClient
from recognizer_svc.service.limits import JobLimits
from recognizer_svc.service.server import RecognizerConfig, RecognizerService
from stal_data.errors import InputError, NotFoundError, StalError
from svc_common.config import ClientConfig, ServerConfig
from svc_common.errors import BusyError
from svc_common.metrics import Metrics
from svc_common.server import ServiceServer
from tests.recognizer.toy_store import ACAR
from tests.services.certificates import make_authority, make_certificate
from tests.services.conftest import TRAINED, Trained
from tests.services.echo import EchoService, Working, in_a_thread, serving
from tests.services.job_scripts import SLEEP, Launcher
from tests.services.recognizer_process import unused_port

TOKEN = "a-token-of-enough-length"


class Answering(EchoService):
    async def GetInfo(self, request, context):
        return pb.GetInfoResponse(name="echo", pending_frames=3, streams=2, max_streams=64)


def status(*words: str, **environment: str) -> Result:
    return CliRunner().invoke(root, ["status", *words], env=environment)


async def score_once(client: ClientConfig) -> None:
    box = recognizer_pb2.Box(x1=0.1, y1=0.1, x2=0.5, y2=0.9)
    fields = {"run_id": TRAINED, "dataset": "toy", "split": "test", "video": "video0", "time_ms": 0, "boxes": [box]}
    async with RecognizerClient(client) as recognizer:
        await recognizer.recognize(recognizer_pb2.RecognizeRequest(**fields))


def test_all_ready_is_exit_code_0(trained: Trained) -> None:
    asyncio.run(score_once(trained.service.client))  # from then on it knows its device
    result = status("--recognizer", trained.service.address)
    assert result.exit_code == 0, result.output
    (row,) = [line for line in result.output.splitlines() if trained.service.address in line]
    assert "ready" in row
    # Other tests may have trained more with this service.
    assert re.search(r"[1-9]\d* heads?, newest \w+", row)
    assert "0/16 calls, 0/1 jobs, 0/16 queued" in row
    assert re.search(r"\b(cpu|cuda)\b", row)


async def test_each_recognizer_of_a_store_shows_its_own_load(store: Store, launcher: Launcher) -> None:
    launcher(SLEEP)
    limits = [JobLimits(machine=name, stop_timeout_s=5) for name in ("busy", "idle")]
    configs = [RecognizerConfig(store=store, limits=own, device="cpu") for own in limits]
    servers = [
        ServiceServer(ServerConfig(), [RecognizerService(config, Metrics())], name="recognizer") for config in configs
    ]
    clients = [ClientConfig(address=f"127.0.0.1:{await server.start()}") for server in servers]
    try:
        async with RecognizerClient(clients[0]) as busy:
            for run_id in ("one", "two"):
                launch = recognizer_pb2.Launch(nproc_per_node=1, backend="gloo")
                updates = busy.train(recognizer_pb2.TrainRequest(run_id=run_id, recipe=ACAR, launch=launch))
                await anext(updates)
                if run_id == "one":
                    async for update in updates:
                        if update.HasField("event"):  # its process runs
                            break
                await updates.aclose()
            assert (await busy.get_info()).machine == "busy"
        services = [ServiceToAsk(kind="recognizer", client=client) for client in clients]
        rows = await ask_all(services, timeout_s=30)
        assert [(row.device, row.load, row.jobs) for row in rows] == [
            ("cpu", "0/16 calls, 1/1 jobs, 1/16 queued", "one"),
            ("cpu", "0/16 calls, 0/1 jobs, 0/16 queued", "none"),
        ]
    finally:
        for server in servers:
            await server.stop(0)


async def test_each_replica_behind_a_name_is_a_row() -> None:
    names = {"detector": [], "ghost": []}

    async def resolve(name: str, port: int) -> tuple[str, ...]:
        if not names[name]:
            raise NotFoundError(f"The name '{name}' does not resolve (test).")
        return tuple(names[name])

    async with serving(Answering()) as (first, _), serving(Answering()) as (second, _):
        gone = unused_port()
        names["detector"] = [f"127.0.0.1:{port}" for port in (first.port, second.port, gone)]
        clients = [ClientConfig(address=f"dns:///{name}:50051", insecure=True) for name in names]
        services = [ServiceToAsk(kind="detector", client=client) for client in clients]
        rows = await ask_all(services, timeout_s=30, resolve=resolve)
    assert [(row.address, row.state) for row in rows] == [
        *((f"127.0.0.1:{port}", "ready") for port in (first.port, second.port)),
        (f"127.0.0.1:{gone}", "unreachable"),
        ("dns:///ghost:50051", "unreachable"),
    ]
    assert "does not resolve" in rows[-1].message


def test_a_name_given_to_the_command_is_resolved() -> None:
    with in_a_thread(Answering()) as port:
        result = status("--detector", f"dns:///localhost:{port}")
    assert result.exit_code == 0, result.output
    assert f"127.0.0.1:{port}" in result.output


def test_services_as_json() -> None:
    with in_a_thread(Answering()) as port:
        result = status("--detector", f"127.0.0.1:{port}", "--json")
    (service,) = json.loads(result.stdout)
    assert (service["kind"], service["address"], service["state"]) == ("detector", f"127.0.0.1:{port}", "ready")


def test_one_that_is_not_there_is_a_row_and_exit_code_1(trained: Trained) -> None:
    missing = f"127.0.0.1:{unused_port()}"
    result = status("--detector", missing, STAL_RECOGNIZER=trained.service.address)
    assert result.exit_code == 1
    rows = {
        address: line
        for line in result.output.splitlines()
        for address in (missing, trained.service.address)
        if address in line
    }
    assert "unreachable" in rows[missing]
    assert "ready" in rows[trained.service.address]


def test_refused_and_ready_are_told_apart_by_the_token(tmp_path: Path) -> None:
    (tmp_path / "token").write_text(TOKEN)
    with in_a_thread(Answering(), token_file=tmp_path / "token") as port:
        (tmp_path / "services.yaml").write_text(
            f"- detector: 127.0.0.1:{port}\n- detector: localhost:{port}\n  token_file: token\n"
        )
        result = status("--services", str(tmp_path / "services.yaml"))
    assert result.exit_code == 1
    rows = [line for line in result.output.splitlines() if str(port) in line]
    assert "refused" in rows[0]
    assert "token" in rows[0]
    assert "ready" in rows[1]
    assert "echo" in rows[1]
    assert "3 frames, 2/64 streams" in rows[1]


class Waiting(EchoService):
    async def GetInfo(self, request, context):
        await self.release.wait()


@pytest.mark.parametrize(
    ("service", "timeout_s", "message"),
    [(EchoService(BusyError("all places are taken")), "60", "all places are taken"), (Waiting(), "1", "no answer")],
)
def test_a_busy_service_refuses_nobody(service: EchoService, timeout_s: str, message: str) -> None:
    with in_a_thread(service) as port:
        result = status("--detector", f"127.0.0.1:{port}", "--timeout-s", timeout_s)
    assert result.exit_code == 1
    (row,) = [line for line in result.output.splitlines() if str(port) in line]
    assert "busy" in row
    assert message in row


async def test_one_that_is_not_ready_says_why_itself() -> None:
    service = Working()
    async with serving(service) as (server, _):
        asked = [ServiceToAsk(kind="detector", client=ClientConfig(address=f"127.0.0.1:{server.port}"))]
        service.work.set_exception(RuntimeError("secret"))
        await asyncio.wait([service.task])
        (row,) = await ask_all(asked, timeout_s=30)
        assert row.state == "not ready"
        assert row.message == f"the task 'work' of {service.full_name} has ended; the service's log says why"
    loading = EchoService(load=asyncio.Event())
    server = ServiceServer(ServerConfig(metrics_port=0), [loading], name="echo")
    starting = asyncio.create_task(server.start())
    try:
        while server.metrics_port is None:
            await asyncio.sleep(0.01)
        asked = [ServiceToAsk(kind="detector", client=ClientConfig(address=f"127.0.0.1:{server.port}"))]
        (row,) = await ask_all(asked, timeout_s=30)
        assert (row.state, row.message) == ("not ready", "the service is starting or stopping")
    finally:
        loading.load.set()
        await starting
        await server.stop(0)


def test_what_looks_like_markup_is_shown_as_it_is() -> None:
    with in_a_thread(EchoService(InputError("[/srv/data] is not [bold]there"))) as port:
        result = status("--detector", f"127.0.0.1:{port}")
    assert "[/srv/data] is not [bold]there" in result.output


def test_a_certificate_for_another_name_than_the_address_is_accepted_when_named(tmp_path: Path) -> None:
    """As through kubectl port-forward or an ssh tunnel."""
    authority = make_authority(tmp_path, "ca")
    certificate, key = make_certificate(authority, "inside", valid_for="DNS:detector.stal.svc")
    with in_a_thread(Answering(), tls_cert=certificate, tls_key=key) as port:
        address, tls = f"127.0.0.1:{port}", ("--tls-ca", str(authority.certificate))
        assert status("--detector", address, *tls).exit_code == 1
        named = status("--detector", address, *tls, "--server-name", "detector.stal.svc")
        assert named.exit_code == 0, named.output
        services = tmp_path / "services.yaml"
        services.write_text(f"- {{detector: '{address}', tls_ca: ca.pem, server_name: detector.stal.svc}}")
        assert status("--services", str(services)).exit_code == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("detector: h:1", "must be a list"),
        ("- detector: h:1\n  recognizer: h:2", "service 1 .* one of detector and recognizer"),
        ("- detector: 127.0.0.1:1\n- recogniser: h:2", "service 2 .* unknown field 'recogniser'.*recognizer"),
        ("- detector: h:1\n  insecure: 'no'", "insecure of service 1 .* true or false"),
        ("- detector: h", "HOST:PORT"),
        ("- detector: h:1\n  tls_ca: nowhere.pem", "nowhere.pem"),
        ("- detector: h:1\n  server_name: 7", "server_name of service 1 .* is 7"),
        ("- detector: h:1\n  server_name: other", "--server-name .* needs --tls-ca"),
        ("- detector: h:1", "'h:1' is another machine"),
        ("- [", "is not YAML: "),
    ],
)
def test_a_wrong_services_file_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "services.yaml").write_text(text)
    with pytest.raises(StalError, match=message):
        read_services(tmp_path / "services.yaml")


def test_no_service_at_all_is_a_usage_error() -> None:
    assert status().exit_code == 2
