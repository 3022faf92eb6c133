"""/metrics for Prometheus, and the probes /live and /ready for orchestrators that show no client certificate.

HTTPS where the service has TLS, but never with client certificates. Probes need no token; /metrics does where the
service has one.
"""

import logging
import socket
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from socketserver import TCPServer, ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer
from wsgiref.types import StartResponse, WSGIEnvironment

from prometheus_client import make_wsgi_app

from stal_data.errors import ConflictError
from svc_common.certificates import ServerCertificates
from svc_common.metrics import Metrics
from svc_common.tokens import TokenCheck

log = logging.getLogger(__name__)
MAX_CONNECTIONS = 32
"""Each has a thread. One more takes the place of the oldest that has not asked for anything yet."""
LIFETIME_S = 10.0
"""A connection is closed after it, whatever it is at; it carries one request."""
_POLL_S = 0.1


class _Handler(WSGIRequestHandler):
    server: "_Server"

    def parse_request(self) -> bool:
        asked = super().parse_request()
        if asked:
            self.server.keep(self.request)
        return asked

    def log_message(self, format: str, *args: Any) -> None:
        """A probe every few seconds is no news."""


class _Server(ThreadingMixIn, WSGIServer):
    """A connection that hangs holds up nobody else."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], certificates: ServerCertificates | None) -> None:
        self._certificates = certificates
        # When each began, the oldest first.
        self._silent: dict[socket.socket, float] = {}
        self._answered: dict[socket.socket, float] = {}
        self._open_lock = threading.Lock()
        if ":" in address[0]:
            self.address_family = socket.AF_INET6
        super().__init__(address, _Handler)

    def server_bind(self) -> None:
        """Without the reverse look-up of the host's name, which may take long; nothing here uses the name."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address[:2]  # type: ignore[assignment]
        self.setup_environ()

    def get_request(self) -> tuple[Any, Any]:
        connection, address = super().get_request()
        if self._certificates is None:
            return connection, address
        context = self._certificates.https_context()
        # The handshake comes with the first read, in the connection's own thread.
        return context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False), address

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._take_place(request):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:  # no thread could be started
            self._forget(request)
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._forget(request)

    def _take_place(self, request: Any) -> bool:
        with self._open_lock:
            if len(self._silent) + len(self._answered) >= MAX_CONNECTIONS:
                oldest = next(iter(self._silent), None)
                if oldest is None:
                    return False
                del self._silent[oldest]
                _hang_up(oldest)
            self._silent[request] = time.monotonic()
            return True

    def keep(self, request: Any) -> None:
        """The request has come: the connection gives its place to nobody until it is answered."""
        with self._open_lock:
            begun = self._silent.pop(request, None)
            if begun is not None:  # else its place is gone, and it is closed
                self._answered[request] = begun

    def _forget(self, request: Any) -> None:
        with self._open_lock:
            self._silent.pop(request, None)
            self._answered.pop(request, None)

    def service_actions(self) -> None:
        """Between two connections, at least every _POLL_S: hang up on those that are over their time.

        A timeout of the socket would begin anew with each byte.
        """
        latest = time.monotonic() - LIFETIME_S
        with self._open_lock:
            for connection, begun in (*self._silent.items(), *self._answered.items()):
                if begun < latest:
                    _hang_up(connection)

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002
        """Timeouts, failed handshakes and connections that break off are the client's."""
        log.debug("a request to the metrics port failed", exc_info=True)


def _hang_up(connection: socket.socket) -> None:
    """Let the connection's thread meet its end."""
    with suppress(OSError):
        # Not the TLS socket's own method, which is not for a socket that another thread reads from.
        socket.socket.shutdown(connection, socket.SHUT_RDWR)


class HttpEndpoint:
    """The server, in threads of its own."""

    def __init__(
        self,
        metrics: Metrics,
        *,
        host: str,
        port: int,
        trouble: Callable[[], str | None],
        unready: Callable[[], str | None],
        certificates: ServerCertificates | None = None,
        tokens: TokenCheck | None = None,
    ) -> None:
        """port 0 takes a free one, see `port`.

        trouble, unready: called by the threads for /live and /ready; why not, None when all is well.
        """
        exposition = make_wsgi_app(metrics.registry)

        def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
            path = environ.get("PATH_INFO", "")
            if path == "/metrics":
                if tokens is None or tokens.accepts(environ.get("HTTP_AUTHORIZATION", "")):
                    answer: Iterable[bytes] = exposition(environ, start_response)
                    return answer
                status = text = "401 Unauthorized"
            elif path in ("/live", "/ready"):
                reason = trouble() if path == "/live" else unready()
                status, text = ("200 OK", "200 OK") if reason is None else ("503 Service Unavailable", reason)
            else:
                status = text = "404 Not Found"
            start_response(status, [("Content-Type", "text/plain")])
            return [f"{text}\n".encode()]

        try:
            self._server = _Server((host.strip("[]"), port), certificates)
        except OSError as error:
            raise ConflictError(
                f"--metrics-port {port} on {host} cannot be used: {error.strerror}. Choose another, or 0."
            ) from error
        self._server.set_app(app)
        self.port = int(self._server.server_port)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(_POLL_S,), name="metrics", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
