"""The HTTP port beside clients that hang: they cost a place each, for a while, and nobody else notices."""

import socket
import ssl
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
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
def endpoint(certificates: ServerCertificates | None = None) -> Iterator[int]:
    """Yield the port."""
    served = HttpEndpoint(
        Metrics(), host="127.0.0.1", port=0, trouble=no_trouble, unready=no_trouble, certificates=certificates
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


def test_connections_that_say_nothing_hold_up_nobody() -> None:
    with endpoint() as port:
        hanging = [socket.create_connection(("127.0.0.1", port)) for _ in range(8)]
        assert is_live(port)
        for connection in hanging:
            connection.close()


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
