"""The live page on this machine: the latest key frame with its people, as server-sent events."""

import base64
import json
import threading
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socket import socket
from string import Template
from typing import Any

from cli.workflow.streaming.outputs import Record
from stal_data.errors import ConflictError
from stal_eval.report.page import asset, source_of

MAX_CLIENTS = 8
"""Connections at once, each with a thread; more are closed."""
_HOST = "127.0.0.1"
_TIMEOUT_S = 10.0
_QUIET_S = 5.0
"""After so long without news a comment is sent, which shows whether the client is still there."""


class LivePage:
    """Serves `/` and `/events`. Only this machine reaches it, and only by the names of loopback."""

    pictures = True

    def __init__(self, port: int, lags: Callable[[], dict[str, float]]) -> None:
        """port: 0 takes a free one. lags: percentiles in seconds, for each event."""
        self._lags, self._latest, self._number = lags, b"", 0
        self._changed, self._closed = threading.Condition(), False
        try:
            self._server = _Server(port, self)
        except OSError as error:
            raise ConflictError(
                f"--page {port} cannot be used: {error.strerror}. Choose another port, or 0."
            ) from error
        self.port = int(self._server.server_address[1])
        self.address = f"http://{_HOST}:{self.port}/"
        threading.Thread(target=self._server.serve_forever, args=(0.1,), name="page", daemon=True).start()

    def send(self, record: Record, picture: bytes | None) -> None:
        shown = {**record, "lags": self._lags()}
        shown["picture"] = None if picture is None else base64.b64encode(picture).decode()
        with self._changed:
            self._latest, self._number = f"data: {json.dumps(shown)}\n\n".encode(), self._number + 1
            self._changed.notify_all()

    def after(self, number: int) -> tuple[int, bytes] | None:
        """Wait for an event other than the one of this number; a comment where none comes; None at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._number != number, _QUIET_S)
            if self._number != number:
                return self._number, self._latest
            return None if self._closed else (number, b": quiet\n\n")

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._server.shutdown()
        self._server.server_close()

    def summary(self) -> str:
        return ""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, port: int, page: LivePage) -> None:
        self.page = page
        self._places = threading.BoundedSemaphore(MAX_CLIENTS)
        super().__init__((_HOST, port), _Handler)
        port = self.server_address[1]
        self.hosts = {f"{name}:{port}" for name in (_HOST, "localhost")}

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._places.acquire(blocking=False):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:  # no thread could be started
            self._places.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._places.release()

    def handle_error(self, request: socket | tuple[bytes, socket], client_address: Any) -> None:
        """A connection that breaks off is the client's."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = _TIMEOUT_S

    def do_GET(self) -> None:
        # Another page's script could reach this one by a name of its own that resolves to loopback.
        if self.headers.get("Host") not in self.server.hosts:
            self.send_error(403, "The host must be 127.0.0.1 or localhost")
        elif self.path == "/":
            page, policy = _page()
            self._begin("text/html; charset=utf-8", policy)
            self.wfile.write(page)
        elif self.path == "/events":
            self._begin("text/event-stream", "default-src 'none'")
            number = 0
            with suppress(OSError):
                while (event := self.server.page.after(number)) is not None:
                    number, text = event
                    self.wfile.write(text)
        else:
            self.send_error(404)

    def _begin(self, kind: str, policy: str) -> None:
        self.send_response(200)
        for name, value in {
            "Content-Type": kind,
            "Content-Security-Policy": policy,
            "Cache-Control": "no-store",
            "X-Content-Type-Options": "nosniff",
            "Connection": "close",
        }.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Requests are no news."""


def _page() -> tuple[bytes, str]:
    """The page, and its policy: nothing but its own style and script run."""
    style, script, template = (asset(f"live.{end}", "cli.workflow.streaming") for end in ("css", "js", "html"))
    policy = (
        f"default-src 'none'; img-src data:; connect-src 'self'; style-src '{source_of(style)}'; "
        f"script-src '{source_of(script)}'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
    )
    return Template(template).substitute(style=style, script=script).encode(), policy
