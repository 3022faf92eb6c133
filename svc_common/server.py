"""The life of a service process: bind, load, serve, drain.

Live means that the port answers, the event loop turns and no task that a service needs has ended; ready means that the
services have loaded what they need, too. SIGTERM or SIGINT drains: not ready, no new calls, running ones get `grace_s`,
then everything stops; what hangs then is left behind. While the services load, it ends the process without waiting for
them. A second signal kills.
"""

import asyncio
import logging
import signal
import socket
from collections.abc import Awaitable, Sequence
from typing import Protocol

import grpc
from grpc_reflection.v1alpha import reflection

from stal_data.errors import ConflictError
from stal_data.files import write_atomically
from stal_data.owner import let_go
from svc_common.certificates import ServerCertificates
from svc_common.config import ServerConfig, join_address
from svc_common.health import Health
from svc_common.http_endpoint import HttpEndpoint
from svc_common.interceptors import CallInterceptor
from svc_common.liveness import Liveness
from svc_common.logs import configure_logging
from svc_common.metrics import Metrics
from svc_common.options import server_options
from svc_common.process_exit import exit_after, exit_now
from svc_common.secret_files import warn_of_readable
from svc_common.tokens import TokenCheck

log = logging.getLogger(__name__)

# Beyond this grpc answers RESOURCE_EXHAUSTED by itself.
MAX_CONCURRENT_CALLS = 512
FREEING_S = 5.0
"""How long everything may take to stop once no call is running any more; after SIGTERM the process then ends anyhow."""
_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Service(Protocol):
    """One gRPC service of a process, with its life cycle."""

    @property
    def full_name(self) -> str:
        """As in the .proto file, e.g. stal.detector.v2.Detector."""

    def register(self, server: grpc.aio.Server) -> None:
        """Add the servicer to the server."""

    async def start(self) -> Sequence[asyncio.Task[None]] | None:
        """Load what is needed; the port is bound already and calls are refused until this returns.

        Returns the tasks without which the service is of no use, if there are such; `stop` cancels them.
        """

    async def drain(self) -> None:
        """Bring long streams to their end; running calls get the grace time from here on."""

    async def stop(self) -> None:
        """Free everything; no call is running any more. Also called when `start` failed."""


class ServiceServer:
    """Serves services on one port."""

    def __init__(
        self,
        config: ServerConfig,
        services: Sequence[Service],
        *,
        name: str,
        metrics: Metrics | None = None,
        drain_s: float = 0.0,
    ) -> None:
        """name: shown when ready, e.g. `detector`. drain_s: the most that the services' `drain` takes."""
        self._config, self._drain_s = config, drain_s
        self._services = services
        self._name = name
        self._metrics = metrics or Metrics()
        self._tokens = TokenCheck(config.token_file)
        self._health = Health([service.full_name for service in services], unready=self._unready)
        self._liveness = Liveness(on_failure=self._health.fail)
        self._server: grpc.aio.Server | None = None
        self._http: HttpEndpoint | None = None
        self.port = 0
        """The bound port, after `start`."""

    @property
    def metrics_port(self) -> int | None:
        """The bound port of the HTTP endpoint, after `start`."""
        return self._http.port if self._http else None

    async def start(self) -> int:
        """Bind, load and become ready; return the port."""
        config = self._config
        warn_of_readable(token_file=config.token_file, tls_key=config.tls_key)
        interceptor = CallInterceptor(self._metrics, tokens=self._tokens, unready=self._unready)
        self._server = server = grpc.aio.server(
            interceptors=[interceptor], options=server_options(config), maximum_concurrent_rpcs=MAX_CONCURRENT_CALLS
        )
        self._health.register(server)
        for service in self._services:
            service.register(server)
        if config.reflection:
            names = [service.full_name for service in self._services]
            reflection.enable_server_reflection([*names, reflection.SERVICE_NAME], server)
        try:
            certificates = ServerCertificates.of(config)
            self.port = self._bind(server, certificates)
            await server.start()
            self._liveness.start()
            if config.metrics_port is not None:
                self._http = HttpEndpoint(
                    self._metrics,
                    host=config.metrics_host or config.host,
                    port=config.metrics_port,
                    trouble=self._liveness.trouble,
                    unready=self._unready,
                    certificates=certificates,
                    tokens=self._tokens,
                )
            for service in self._services:
                self._liveness.require(await service.start() or (), service=service.full_name)
        except BaseException:
            await self.stop(0)
            raise
        self._health.set_ready(True)
        if config.port_file is not None:
            write_atomically(config.port_file, f"{self.port}\n")
        return self.port

    async def stop(self, grace_s: float | None = None) -> None:
        """Drain and stop; grace_s defaults to the configured one."""
        self._health.set_ready(False)
        if self._server is not None:
            await self._all("drain", [service.drain() for service in self._services])
            self._health.end_watches()
            await self._server.stop(self._config.grace_s if grace_s is None else grace_s)
            self._server = None
            await self._all("stop", [service.stop() for service in self._services])
        if self._http is not None:
            self._http.close()
            self._http = None
        self._liveness.stop()

    async def serve(self) -> None:
        """Start, say so on stdout, serve until SIGTERM or SIGINT, drain."""
        configure_logging(self._config.log_format, service=self._name)
        stopping = asyncio.create_task(_stop_signal().wait())
        starting = asyncio.create_task(self.start())
        await asyncio.wait((starting, stopping), return_when=asyncio.FIRST_COMPLETED)
        if not starting.done():
            log.info("%s is stopped before it is ready", self._name)
            starting.cancel()
            await asyncio.wait((starting,), timeout=self._config.grace_s)
            exit_now()
        await starting
        print(f"{self._name} ready on {join_address(self._config.host, self.port)}", flush=True)
        await stopping
        most_s = self._drain_s + self._config.grace_s + FREEING_S
        log.info("%s drains for at most %g s", self._name, most_s)
        exit_after(most_s)
        await self.stop()

    def _unready(self) -> str | None:
        """Why no calls are taken; None when they are. Any thread may ask."""
        return self._liveness.trouble() or (None if self._health.ready else "the service is starting or stopping")

    async def _all(self, step: str, ends: Sequence[Awaitable[None]]) -> None:
        """Take the services through a step; one that fails keeps no other from it."""
        results = await asyncio.gather(*ends, return_exceptions=True)
        for service, error in zip(self._services, results, strict=True):
            if error is not None:
                log.error("%s could not %s", service.full_name, step, exc_info=error)

    def _bind(self, server: grpc.aio.Server, certificates: ServerCertificates | None) -> int:
        config = self._config
        address = join_address(config.host, config.port)
        try:
            if certificates is None:
                return server.add_insecure_port(address)
            return server.add_secure_port(address, certificates.grpc_credentials())
        except RuntimeError as error:
            reason = _why_not_bound(config.host, config.port) or str(error)
            raise ConflictError(
                f"{address} cannot be bound: {reason}. Choose another --port, or 0 for a free one."
            ) from error


def _stop_signal() -> asyncio.Event:
    """Set by the first SIGTERM or SIGINT; the next one does what it does to any process."""
    loop, stopping = asyncio.get_running_loop(), asyncio.Event()

    def stop() -> None:
        let_go()
        for number in _STOP_SIGNALS:
            loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_DFL)  # SIGINT would raise KeyboardInterrupt, which waits for threads
        stopping.set()

    for number in _STOP_SIGNALS:
        loop.add_signal_handler(number, stop)
    return stopping


def _why_not_bound(host: str, port: int) -> str | None:
    """Ask the operating system, since grpc does not pass its reason on."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.bind(address)
    except OSError as error:
        return error.strerror
    return None
