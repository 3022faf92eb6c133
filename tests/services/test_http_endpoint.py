"""The HTTP port beside clients that hang: they cost a place each, for a while, and nobody else notices."""

import socket
import ssl
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from socketserver import ThreadingMixIn

import pytest

from svc_common import http_endpoint
from svc_common.certificates import ServerCertificates
from svc_common.http_endpoint import MAX_CONNECTIONS, HttpEndpoint
from svc_common.metrics import Metrics
from tests.services.certificates import make_authority, make_certificate


def no_trouble() -> None:
    return None


@contextmanager
def endpoint(certificates: ServerCertificates | None = None, unready: Callable[[], None] = no_trouble) -> Iterator[int]:
    """Yield the port."""
    served = HttpEndpoint(
        Metrics(), host="127.0.0.1", port=0, trouble=no_trouble, unready=unready, certificates=certificates
    )
    try:
        yield served.port
    finally:
        served.close()


def is_live(port: int) -> bool:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/live", timeout=60) as answer:
        return answer.status == 200


def hangs_up(connection: socket.socket, *, within_s: float = 60.0) -> bool:
    """Send a byte now and then until the other side closes."""
    end = time.monotonic() + within_s
    connection.settimeout(0.05)
    while time.monotonic() < end:
        try:
            connection.sendall(b"G")
            if connection.recv(100) == b"":
                return True
        except TimeoutError:
            continue
        except OSError:
            return True
    return False


@pytest.mark.parametrize("said", [b"", b"GET /live HTTP/1.1\r\nHost: x\r\n"], ids=["nothing", "half a request"])
def test_connections_that_ask_for_nothing_hold_up_nobody(said: bytes) -> None:
    with endpoint() as port, ExitStack() as hanging:
        for _ in range(2 * MAX_CONNECTIONS):
            connection = hanging.enter_context(socket.create_connection(("127.0.0.1", port)))
            connection.sendall(said)
        assert all(is_live(port) for _ in range(2 * MAX_CONNECTIONS))


def test_nor_do_connections_without_a_handshake(tmp_path: Path) -> None:
    authority = make_authority(tmp_path, "ca")
    certificates = ServerCertificates(*make_certificate(authority, "server"), None)
    context = ssl.create_default_context(cafile=authority.certificate)
    with endpoint(certificates) as port, ExitStack() as hanging:
        for _ in range(2 * MAX_CONNECTIONS):
            hanging.enter_context(socket.create_connection(("127.0.0.1", port)))
        for _ in range(4):
            with urllib.request.urlopen(f"https://127.0.0.1:{port}/live", timeout=60, context=context) as answer:
                assert answer.status == 200


def test_a_request_that_has_come_keeps_its_place() -> None:
    begun, go_on = threading.Event(), threading.Event()

    def trouble() -> None:
        begun.set()
        go_on.wait(60)

    with (
        endpoint(unready=trouble) as port,
        socket.create_connection(("127.0.0.1", port)) as asking,
        ExitStack() as hanging,
    ):
        asking.sendall(b"GET /ready HTTP/1.0\r\n\r\n")
        assert begun.wait(60)
        for _ in range(2 * MAX_CONNECTIONS):
            hanging.enter_context(socket.create_connection(("127.0.0.1", port)))
        assert is_live(port)  # so all of them were met
        go_on.set()
        asking.settimeout(60)
        assert asking.recv(100).startswith(b"HTTP/1.0 200")


def test_a_byte_now_and_then_keeps_no_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_endpoint, "LIFETIME_S", 0.5)
    with endpoint() as port, socket.create_connection(("127.0.0.1", port)) as connection:
        assert hangs_up(connection)


def test_nor_a_connection_with_tls(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(http_endpoint, "LIFETIME_S", 0.5)
    authority = make_authority(tmp_path, "ca")
    certificates = ServerCertificates(*make_certificate(authority, "server"), None)
    context = ssl.create_default_context(cafile=authority.certificate)
    with endpoint(certificates) as port:
        with socket.create_connection(("127.0.0.1", port)) as silent:  # not even a handshake
            assert hangs_up(silent)
        with (
            socket.create_connection(("127.0.0.1", port)) as connection,
            context.wrap_socket(connection, server_hostname="127.0.0.1") as secured,
        ):
            assert hangs_up(secured)


def test_a_connection_without_a_thread_gives_its_place_back(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_thread(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    with endpoint() as port:
        with monkeypatch.context() as patch:
            patch.setattr(ThreadingMixIn, "process_request", no_thread)
            for _ in range(MAX_CONNECTIONS):
                with socket.create_connection(("127.0.0.1", port)) as connection:
                    connection.settimeout(60)
                    assert connection.recv(1) == b""
        assert is_live(port)
