"""Certificates and tokens are replaced while a service runs; probes and metrics with TLS and tokens on."""

import asyncio
import shutil
import ssl
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest
from click.testing import CliRunner

from cli.main import root
from protos.generated import detector_pb2 as pb
from stal_data.errors import InputError
from svc_common.config import ClientConfig, ServerConfig
from svc_common.errors import ServiceUnavailableError
from svc_common.probe import probe
from svc_common.server import ServiceServer
from tests.services.certificates import Authority, make_authority, make_certificate
from tests.services.echo import EchoService, calling, serving


@pytest.fixture(scope="module")
def authorities(tmp_path_factory: pytest.TempPathFactory) -> tuple[Authority, Authority]:
    """Each has signed a `server` and a `client`."""
    folder = tmp_path_factory.mktemp("authorities")
    made = make_authority(folder / "old", "ca"), make_authority(folder / "new", "ca")
    for authority in made:
        make_certificate(authority, "server")
        make_certificate(authority, "client")
    return made


def install(authority: Authority, folder: Path) -> dict[str, Path]:
    """Copy what a service needs; over what is there, if anything."""
    folder.mkdir(exist_ok=True)
    for name in ("server.pem", "server.key", "ca.pem"):
        shutil.copyfile(authority.folder / name, folder / name)
    return {"tls_cert": folder / "server.pem", "tls_key": folder / "server.key", "tls_ca": folder / "ca.pem"}


def shown_by(authority: Authority) -> dict[str, Path]:
    """What a client of that authority gives."""
    folder = authority.folder
    return {"tls_ca": folder / "ca.pem", "tls_cert": folder / "client.pem", "tls_key": folder / "client.key"}


async def name_at(port: int, **client: object) -> str:
    async with calling(port, **client) as stub:
        return (await stub.GetInfo(pb.GetInfoRequest())).name


async def test_a_new_certificate_serves_new_connections_and_old_ones_go_on(
    authorities: tuple[Authority, Authority], tmp_path: Path
) -> None:
    old, new = authorities
    async with (
        serving(**install(old, tmp_path / "tls")) as (server, _),
        calling(server.port, **shown_by(old)) as connected,
    ):
        await connected.GetInfo(pb.GetInfoRequest())
        with pytest.raises(grpc.aio.AioRpcError, match="UNAVAILABLE"):
            await name_at(server.port, **shown_by(new))
        install(new, tmp_path / "tls")
        assert await name_at(server.port, **shown_by(new)) == "echo"
        with pytest.raises(grpc.aio.AioRpcError, match="UNAVAILABLE"):
            await name_at(server.port, **shown_by(old))
        assert (await connected.GetInfo(pb.GetInfoRequest())).name == "echo"


async def test_a_certificate_without_its_key_changes_nothing(
    authorities: tuple[Authority, Authority], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    old, new = authorities
    async with serving(**install(old, tmp_path / "tls")) as (server, _):
        shutil.copyfile(new.folder / "server.pem", tmp_path / "tls" / "server.pem")  # and not yet its key
        assert await name_at(server.port, **shown_by(old)) == "echo"
        assert "kept the last good" in caplog.text
        install(new, tmp_path / "tls")
        assert await name_at(server.port, **shown_by(new)) == "echo"


async def test_a_key_of_another_certificate_stops_the_start(authorities: tuple[Authority, Authority]) -> None:
    old, new = authorities
    config = ServerConfig(tls_cert=old.folder / "server.pem", tls_key=new.folder / "server.key")
    with pytest.raises(InputError, match=r"--tls-key .* must be valid PEM"):
        await ServiceServer(config, [EchoService()], name="echo").start()


async def test_a_token_is_replaced_without_a_gap(tmp_path: Path) -> None:
    accepted, sent = tmp_path / "service", tmp_path / "client"
    accepted.write_text("a" * 20)
    sent.write_text("a" * 20)
    async with serving(token_file=accepted) as (server, _), calling(server.port, token_file=sent) as stub:
        steps = ((accepted, "b" * 20 + "\n\n" + "a" * 20), (sent, "b" * 21), (sent, "b" * 20), (accepted, "b" * 20))
        for file, text in steps:
            file.write_text(text)
            if text == "b" * 21:
                with pytest.raises(grpc.aio.AioRpcError, match="UNAUTHENTICATED"):
                    await stub.GetInfo(pb.GetInfoRequest())
            else:
                await stub.GetInfo(pb.GetInfoRequest())
        accepted.write_text("short")  # a broken file locks nobody out and lets nobody in
        await stub.GetInfo(pb.GetInfoRequest())
        accepted.unlink()
        await stub.GetInfo(pb.GetInfoRequest())
        sent.write_text("short-short-short")
        with pytest.raises(grpc.aio.AioRpcError, match="UNAUTHENTICATED"):
            await stub.GetInfo(pb.GetInfoRequest())


def fetch(url: str, authority: Authority | None = None, token: str | None = None) -> int:
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"} if token else {})
    context = ssl.create_default_context(cafile=authority.certificate) if authority else None
    try:
        with urllib.request.urlopen(request, timeout=60, context=context) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        with error:
            return error.code


@asynccontextmanager
async def mutual(authority: Authority, folder: Path) -> AsyncIterator[ServiceServer]:
    token = folder / "token"
    token.write_text("t" * 20)
    async with serving(**install(authority, folder / "tls"), token_file=token, metrics_port=0) as (server, _):
        yield server


async def test_probes_need_neither_certificate_nor_token_but_metrics_need_the_token(
    authorities: tuple[Authority, Authority], tmp_path: Path
) -> None:
    old, new = authorities
    async with mutual(old, tmp_path) as server:
        base = f"https://127.0.0.1:{server.metrics_port}"
        assert await asyncio.to_thread(fetch, f"{base}/live", old) == 200
        assert await asyncio.to_thread(fetch, f"{base}/ready", old) == 200
        assert await asyncio.to_thread(fetch, f"{base}/metrics", old) == 401
        assert await asyncio.to_thread(fetch, f"{base}/metrics", old, "w" * 20) == 401
        assert await asyncio.to_thread(fetch, f"{base}/metrics", old, "t" * 20) == 200
        with pytest.raises((urllib.error.URLError, ConnectionError)):
            await asyncio.to_thread(fetch, base.replace("https", "http") + "/live")
        install(new, tmp_path / "tls")
        assert await asyncio.to_thread(fetch, f"{base}/live", new) == 200


def test_the_metrics_port_follows_the_rule_of_the_service() -> None:
    with pytest.raises(InputError, match=r"--metrics-host '0\.0\.0\.0' is reached by other machines"):
        ServerConfig(metrics_host="0.0.0.0", metrics_port=0)
    ServerConfig(metrics_host="0.0.0.0", metrics_port=0, insecure=True)


def test_only_a_token_keeps_other_machines_from_the_metrics(
    authorities: tuple[Authority, Authority], tmp_path: Path
) -> None:
    files = install(authorities[0], tmp_path / "tls")
    tls = {name: files[name] for name in ("tls_cert", "tls_key")}
    for hosts in ({"host": "0.0.0.0"}, {"metrics_host": "0.0.0.0"}):
        (option,) = (f"--{name.replace('_', '-')} '0.0.0.0'" for name in hosts)
        with pytest.raises(InputError, match=rf"--metrics-port 9051 on {option} .*--token-file"):
            ServerConfig(**files, **hosts, metrics_port=9051)  # with client certificates
        ServerConfig(**files, **hosts)
        ServerConfig(**files, **hosts, metrics_port=9051, insecure=True)
    with pytest.raises(InputError, match="--metrics-port 9051 on --metrics-host"):
        ServerConfig(**tls, metrics_host="0.0.0.0", metrics_port=9051)
    ServerConfig(**files, host="0.0.0.0", metrics_host="127.0.0.1", metrics_port=9051)
    token = tmp_path / "token"
    token.write_text("t" * 20)
    ServerConfig(**tls, host="0.0.0.0", metrics_port=9051, token_file=token)


async def test_the_health_command_shows_its_certificate(
    authorities: tuple[Authority, Authority], tmp_path: Path
) -> None:
    old, _ = authorities
    options = [f"--{name.replace('_', '-')}={path}" for name, path in shown_by(old).items()]

    def health(*words: str) -> tuple[int, str]:
        result = CliRunner().invoke(root, ["health", *words])
        return result.exit_code, result.output or str(result.exception)

    async with mutual(old, tmp_path) as server:
        address = f"127.0.0.1:{server.port}"
        assert await asyncio.to_thread(health, address, *options) == (0, "ready\n")
        assert await asyncio.to_thread(health, address, *options, "--live") == (0, "live\n")
        named = (*options, "--server-name", "localhost")
        assert await asyncio.to_thread(health, address, *named) == (0, "ready\n")
        for refused in ((), (*options, "--server-name", "other.example")):
            code, text = await asyncio.to_thread(health, address, *refused)
            assert (code, "does not answer" in text) == (1, True)
    code, text = await asyncio.to_thread(health, address, *options)
    assert (code, "does not answer" in text) == (1, True)


async def test_a_service_that_is_loading_is_live_and_not_ready() -> None:
    service = EchoService(load=asyncio.Event())
    server = ServiceServer(ServerConfig(metrics_port=0), [service], name="echo")
    starting = asyncio.create_task(server.start())
    try:
        while server.metrics_port is None:
            await asyncio.sleep(0)
        config = ClientConfig(address=f"127.0.0.1:{server.port}")
        await probe(config, service="live", timeout_s=60)
        with pytest.raises(ServiceUnavailableError, match="starting or stopping"):
            await probe(config, service="", timeout_s=60)
        service.load.set()
        await starting
        await probe(config, service="", timeout_s=60)
    finally:
        await server.stop(0)
