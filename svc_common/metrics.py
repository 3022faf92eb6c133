"""Prometheus metrics and the plain HTTP probes /live and /ready, for orchestrators that cannot speak mTLS."""

import threading
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, make_wsgi_app

from stal_data.errors import ConflictError

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment

_SECONDS = (0.005, 0.02, 0.1, 0.5, 2, 10, 60, 300, 1800)


class Metrics:
    """Call metrics of one server; a service registers its own in `registry`."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.calls = Counter("stal_rpc", "Finished calls", ["method", "code"], registry=self.registry)
        self.seconds = Histogram(
            "stal_rpc_seconds", "Duration of finished calls", ["method"], buckets=_SECONDS, registry=self.registry
        )
        self.running = Gauge("stal_rpc_running", "Calls in progress", ["method"], registry=self.registry)


class _QuietHandler(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """A probe every few seconds is no news."""


class MetricsServer:
    """The HTTP server, in a thread of its own."""

    def __init__(self, metrics: Metrics, *, host: str, port: int, ready: Callable[[], bool]) -> None:
        """ready: called by the HTTP thread for /ready. port 0 takes a free one, see `port`."""
        exposition = make_wsgi_app(metrics.registry)

        def app(environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
            path = environ.get("PATH_INFO", "")
            if path == "/metrics":
                answer: Iterable[bytes] = exposition(environ, start_response)
                return answer
            healthy = {"/live": True, "/ready": ready()}.get(path)
            status = "404 Not Found" if healthy is None else "200 OK" if healthy else "503 Service Unavailable"
            start_response(status, [("Content-Type", "text/plain")])
            return [f"{status}\n".encode()]

        try:
            self._server: WSGIServer = make_server(host, port, app, handler_class=_QuietHandler)
        except OSError as error:
            raise ConflictError(
                f"--metrics-port {port} on {host} cannot be used: {error.strerror}. Choose another, or 0."
            ) from error
        self.port = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever, name="metrics", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
