"""A bucket over real HTTP for the tests: a proxy that injects faults, before moto's S3 in the same process.

Moto keeps objects in memory and checks no signatures and no Content-MD5; so the tests show what our side does with
answers, not that a given server gives them.
"""

import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from moto.core import DEFAULT_ACCOUNT_ID
from moto.s3.models import S3Backend, s3_backends
from moto.server import create_backend_app
from werkzeug.test import Client, TestResponse


@dataclass(frozen=True, kw_only=True)
class Request:
    """path: without the query; parts of a key are joined as in its URL. query: as sent."""

    method: str
    path: str
    query: str

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


Fault = str
"""500, 501, 503, reset (nothing was done), lost (done, but no answer), hang, trickle, truncate, flip, or
later-SECONDS: the server's clock goes ahead."""

Rule = Callable[[Request], Fault | None]


def backend() -> S3Backend:
    """The server's memory: what a test needs but does not test is put there without requests."""
    return s3_backends[DEFAULT_ACCOUNT_ID]["aws"]


@cache
def moto() -> Client:
    """Moto's S3 without its own HTTP server, whose routing takes longer than all the rest of a request."""
    return Client(create_backend_app("s3"), use_cookies=False)


class FaultProxy:
    """Has moto answer requests, except where `rule` names a fault. log: every request, in order."""

    def __init__(self) -> None:
        self.rule: Rule = lambda request: None
        self.log: list[Request] = []
        self.num_connections = 0
        self.ignore_conditions = False
        self.stopping = threading.Event()
        self._one_at_a_time = threading.Lock()  # moto is not atomic where two requests arrive at once
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def setup(self) -> None:
                proxy.num_connections += 1
                super().setup()

            def forward(self) -> None:
                path, _, query = self.path.partition("?")
                request = Request(method=self.command, path=path, query=query)
                proxy.log.append(request)
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                proxy.answer(self, request, body, proxy.rule(request) or "")

            do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = forward

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def answer(self, handler: BaseHTTPRequestHandler, request: Request, body: bytes, fault: Fault) -> None:
        if fault == "reset":
            reset(handler)
            return
        if fault in ("500", "501", "503"):
            code = {"500": "InternalError", "501": "NotImplemented", "503": "SlowDown"}[fault]
            content = b"" if request.method == "HEAD" else f"<Error><Code>{code}</Code></Error>".encode()
            handler.send_response(int(fault))
            handler.send_header("Content-Length", str(len(content)))
            handler.end_headers()
            handler.wfile.write(content)
            return
        if fault == "hang":
            self.stopping.wait(60)
            reset(handler)
            return
        headers = dict(handler.headers.items())
        headers.pop("Expect", None)
        if self.ignore_conditions:
            headers = {k: v for k, v in headers.items() if k.lower() not in ("if-match", "if-none-match")}
        with self._one_at_a_time:
            reply = moto().open(
                request.path, query_string=request.query, method=request.method, headers=headers, data=body
            )
        if fault == "lost":
            reset(handler)
        else:
            send(handler, request, reply, fault)

    def stop(self) -> None:
        self.stopping.set()
        self._server.shutdown()
        self._server.server_close()


def send(handler: BaseHTTPRequestHandler, request: Request, reply: TestResponse, fault: Fault) -> None:
    handler.send_response_only(reply.status_code)
    ahead = timedelta(seconds=float(fault.removeprefix("later-") if fault.startswith("later-") else 0))
    handler.send_header("Date", format_datetime(datetime.now(UTC) + ahead, usegmt=True))
    for name, value in reply.headers.items():
        if name.lower() not in ("date", "transfer-encoding", "content-length", "connection"):
            handler.send_header(name, value)
    content = reply.data
    length = reply.headers.get("Content-Length", "0") if request.method == "HEAD" else str(len(content))
    handler.send_header("Content-Length", length)
    handler.end_headers()
    if request.method == "HEAD":
        return
    if fault == "flip" and content:
        content = content[:-1] + bytes([content[-1] ^ 1])
    if fault == "trickle":
        with_pauses(handler, content)
    elif fault == "truncate":
        handler.wfile.write(content[: len(content) // 2])
        reset(handler)
    else:
        handler.wfile.write(content)


def with_pauses(handler: BaseHTTPRequestHandler, content: bytes) -> None:
    pause = threading.Event()
    try:
        for start in range(len(content)):
            handler.wfile.write(content[start : start + 1])
            handler.wfile.flush()
            pause.wait(0.02)
    except OSError:
        handler.close_connection = True  # the client gave up


def reset(handler: BaseHTTPRequestHandler) -> None:
    """Close the connection the hard way: the client sees ECONNRESET."""
    handler.wfile.flush()
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.close_connection = True
    handler.connection.close()


@contextmanager
def s3_server() -> Iterator[FaultProxy]:
    """Run a proxy; there is no bucket yet."""
    proxy = FaultProxy()
    try:
        yield proxy
    finally:
        backend().reset()
        proxy.stop()
