"""grpc.health.v1 with live and ready apart.

Service `live` serves from the moment the port is bound until the process ends, or a task that it needs (liveness.py).
The empty name and each service's full name serve while the service is ready: live, after loading and before draining.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from stal_data.errors import NotFoundError
from svc_common.calls_per_client import CallsPerClient, Context

LIVE = "live"
REASON_TRAILER = "stal-not-serving"
"""Beside the answer NOT_SERVING to a check: why, as /ready of the metrics port says it."""
WATCHES_PER_CLIENT = 32
"""Watch streams of one address. They need no token, and each holds one of the server's places for calls."""
_Status = health_pb2.HealthCheckResponse


class Health(health_pb2_grpc.HealthServicer):  # type: ignore[misc]  # the package has no types
    """Health of one server.

    Not grpcio-health-checking's servicer: that one writes to watchers while it holds the lock that a change of state
    needs, so a watcher that reads nothing would hold up the drain.
    """

    def __init__(self, services: Sequence[str], *, unready: Callable[[], str | None]) -> None:
        """services: full names as in the .proto files. unready: why no calls are taken; None when they are."""
        self._unready = unready
        self._loaded, self._failed = False, False
        self._names = ("", *services)
        self._places = CallsPerClient(WATCHES_PER_CLIENT, "health watches")
        self._ended = False
        self._changed = asyncio.Event()

    def register(self, server: grpc.aio.Server) -> None:
        health_pb2_grpc.add_HealthServicer_to_server(self, server)

    @property
    def ready(self) -> bool:
        return self._loaded and not self._failed

    def set_ready(self, ready: bool) -> None:
        self._loaded = ready
        self._tell()

    def fail(self) -> None:
        """Not live from now on, and so not ready."""
        self._failed = True
        self._tell()

    def end_watches(self) -> None:
        """Close the streams of all watchers, each after the last state: they would take the whole grace time."""
        self._ended = True
        self._tell()

    async def Check(self, request: health_pb2.HealthCheckRequest, context: Context) -> Any:  # noqa: N802
        status = self._status(request.service)
        if status is None:
            raise NotFoundError(f"there is no service '{request.service[:200]}' here")
        if status == _Status.NOT_SERVING and (reason := self._unready()) is not None:
            context.set_trailing_metadata(((REASON_TRAILER, reason),))
        return _Status(status=status)

    async def List(self, request: health_pb2.HealthListRequest, context: Context) -> Any:  # noqa: N802, ARG002
        statuses = {name: _Status(status=self._status(name)) for name in (*self._names, LIVE)}
        return health_pb2.HealthListResponse(statuses=statuses)

    async def Watch(self, request: health_pb2.HealthCheckRequest, context: Context) -> None:  # noqa: N802
        """Send the state now and at each change; what came and went while it was being sent is left out."""
        told = None
        with self._places.one(context):
            while True:
                changed, status = self._changed, self._status(request.service) or _Status.SERVICE_UNKNOWN
                if status != told:
                    await context.write(_Status(status=status))
                    told = status
                elif self._ended:
                    return
                else:
                    await changed.wait()

    def _status(self, service: str) -> Any:
        if service != LIVE and service not in self._names:
            return None
        serves = not self._failed if service == LIVE else self.ready
        return _Status.SERVING if serves else _Status.NOT_SERVING

    def _tell(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
