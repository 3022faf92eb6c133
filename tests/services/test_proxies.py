"""Which calls go through the proxy that the environment names: those to other machines, and what their errors say."""

import socket
import threading
from collections.abc import Iterator

import pytest

from svc_common.config import ClientConfig
from svc_common.errors import ServiceUnavailableError
from svc_common.probe import probe
from svc_common.proxies import proxy_of
from tests.services.echo import serving

SPELLINGS = ("grpc_proxy", "http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")


@pytest.fixture
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in (*SPELLINGS, "no_proxy", "NO_PROXY", "no_grpc_proxy"):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


class RefusingProxy:
    """Says 403 to everybody; `asked` has the first line of each request."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://user:secret@127.0.0.1:{self._listening.getsockname()[1]}"
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while True:
            connection, _ = self._listening.accept()
            with connection:
                request = connection.recv(4096)
                if not request:
                    return
                self.asked.append(request.split(b"\r\n")[0].decode())
                connection.sendall(b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n")

    def stop(self) -> None:
        socket.create_connection(self._listening.getsockname()).close()
        self._thread.join()
        self._listening.close()


@pytest.fixture
def proxy() -> Iterator[RefusingProxy]:
    proxy = RefusingProxy()
    yield proxy
    proxy.stop()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "dns:///localhost"])
async def test_calls_to_this_machine_pass_by_every_proxy(
    no_proxies: pytest.MonkeyPatch, proxy: RefusingProxy, host: str
) -> None:
    for name in SPELLINGS:
        no_proxies.setenv(name, proxy.url)
    async with serving() as (server, _):
        await probe(ClientConfig(address=f"{host}:{server.port}"), service="", timeout_s=20)
    assert proxy.asked == []


@pytest.mark.parametrize(
    ("environment", "chosen"),
    [
        ({"http_proxy": "P"}, "http_proxy"),
        ({"http_proxy": "P", "https_proxy": "P"}, "https_proxy"),
        ({"http_proxy": "P", "grpc_proxy": "P"}, "grpc_proxy"),
        ({"http_proxy": "P", "https_proxy": ""}, None),
        ({"HTTP_PROXY": "P", "all_proxy": "P"}, None),
        ({"http_proxy": "P", "no_proxy": "127.0.0.1, .0.2.1"}, None),
        ({"http_proxy": "P", "no_proxy": "192.0.2.0/24"}, None),
        ({"http_proxy": "P", "no_proxy": "*"}, "http_proxy"),
        ({"http_proxy": "P", "NO_PROXY": "192.0.2.1"}, "http_proxy"),
        ({"http_proxy": "P", "no_proxy": "192.0.2.1", "no_grpc_proxy": "x"}, "http_proxy"),
    ],
    ids=str,
)
async def test_an_error_names_the_proxy_that_was_asked(
    no_proxies: pytest.MonkeyPatch, proxy: RefusingProxy, environment: dict[str, str], chosen: str | None
) -> None:
    for name, value in environment.items():
        no_proxies.setenv(name, value.replace("P", proxy.url))
    shown = None if chosen is None else f"{chosen}={proxy.url.replace('user:secret@', '')}"
    assert proxy_of("192.0.2.1") == shown
    if shown is None:
        return
    with pytest.raises(ServiceUnavailableError) as caught:
        await probe(ClientConfig(address="192.0.2.1:50051", insecure=True), service="", timeout_s=20)
    assert f"does not answer through the proxy {shown} (add 192.0.2.1 to no_proxy to go past it)" in str(caught.value)
    assert "secret" not in str(caught.value)
    assert set(proxy.asked) == {"CONNECT 192.0.2.1:50051 HTTP/1.1"}
