"""Asks a service how it is, with the certificates that it demands: what a prober without TLS cannot do."""

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from svc_common.client import open_channel
from svc_common.config import ClientConfig
from svc_common.errors import BusyError, ServiceError, ServiceUnavailableError

_SERVING = health_pb2.HealthCheckResponse.SERVING


class NotReadyError(ServiceUnavailableError):
    """The service answers, and is starting, stopping or not live any more."""


async def probe(config: ClientConfig, *, service: str, timeout_s: float) -> None:
    """Return when the service serves; raise NotReadyError when it does not, ServiceUnavailableError when it does not
    answer in time, BusyError when it has too many calls.

    service: "" for ready, `live`, or a full name as in the .proto files.
    """
    async with open_channel(config) as channel:
        request = health_pb2.HealthCheckRequest(service=service)
        try:
            answer = await health_pb2_grpc.HealthStub(channel).Check(request, timeout=timeout_s)
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.NOT_FOUND:
                raise ServiceError(f"The server at {config.address} has no service '{service}'.") from error
            if error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED:
                raise BusyError(f"The service at {config.address} has too many calls in progress.") from error
            raise ServiceUnavailableError(
                f"The service at {config.address} does not answer ({error.code().name}: {error.details()})."
            ) from error
    if answer.status != _SERVING:
        raise NotReadyError(f"The service at {config.address} is starting or stopping, or has failed (see its log).")
