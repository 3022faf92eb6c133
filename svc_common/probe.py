"""Asks a service how it is, with the certificates that it demands: what a prober without TLS cannot do."""

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from svc_common.client import open_channel
from svc_common.config import ClientConfig
from svc_common.errors import BusyError, ServiceError, ServiceUnavailableError
from svc_common.health import REASON_TRAILER
from svc_common.proxies import through_proxy

_SERVING = health_pb2.HealthCheckResponse.SERVING


class NotReadyError(ServiceUnavailableError):
    """The service answers, and is starting, stopping or not live any more. reason: which, as the service says."""

    def __init__(self, address: str, reason: str) -> None:
        super().__init__(f"The service at {address} is not ready: {reason}.")
        self.reason = reason


async def probe(config: ClientConfig, *, service: str, timeout_s: float) -> None:
    """Return when the service serves; raise NotReadyError when it does not, ServiceUnavailableError when it does not
    answer in time, BusyError when it has too many calls.

    service: "" for ready, `live`, or a full name as in the .proto files.
    """
    async with open_channel(config) as channel:
        request = health_pb2.HealthCheckRequest(service=service)
        try:
            call = health_pb2_grpc.HealthStub(channel).Check(request, timeout=timeout_s)
            answer, trailers = await call, await call.trailing_metadata()
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.NOT_FOUND:
                raise ServiceError(f"The server at {config.address} has no service '{service}'.") from error
            if error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED:
                raise BusyError(f"The service at {config.address} has too many calls in progress.") from error
            raise ServiceUnavailableError(
                f"The service at {config.address} does not answer{through_proxy(config.address)} "
                f"({error.code().name}: {error.details()})."
            ) from error
    if answer.status != _SERVING:
        reason = dict(trailers).get(REASON_TRAILER, "it starts or stops, or has failed (see its log)")
        raise NotReadyError(config.address, str(reason))
