"""grpc.health.v1 with live and ready apart.

Service `live` serves from the moment the port is bound until the process ends. The empty name and each service's
full name serve while the service is ready: after loading and before draining.
"""

from collections.abc import Sequence

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health_aio

LIVE = "live"
_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class Health:
    """Health of one server."""

    def __init__(self, services: Sequence[str]) -> None:
        """services: full names as in the .proto files."""
        self.ready = False
        self._names = ("", *services)
        self._servicer = health_aio.HealthServicer()

    def register(self, server: grpc.aio.Server) -> None:
        health_pb2_grpc.add_HealthServicer_to_server(self._servicer, server)

    async def set_live(self) -> None:
        await self._servicer.set(LIVE, _SERVING)
        await self.set_ready(False)

    async def set_ready(self, ready: bool) -> None:
        self.ready = ready
        for name in self._names:
            await self._servicer.set(name, _SERVING if ready else _NOT_SERVING)
