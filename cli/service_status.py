"""What `stal-cli status` asks each service."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from detector_svc.client import DetectorClient, DetectorClientConfig
from protos.generated import recognizer_pb2 as pb
from recognizer_svc.client import RecognizerClient
from stal_data.errors import StalError
from svc_common.client import call_metadata, open_channel
from svc_common.config import ClientConfig
from svc_common.errors import error_of

Kind = Literal["detector", "recognizer"]
_JOBS_LOOKED_AT = 1000


@dataclass(frozen=True, kw_only=True)
class ServiceToAsk:
    """A configured service."""

    kind: Kind
    client: ClientConfig


@dataclass(frozen=True, kw_only=True)
class ServiceStatus:
    """A row of the table; "-" where nothing is known."""

    kind: Kind
    address: str
    state: str = "unreachable"
    """ready, not ready (it starts or stops), refused (token, certificate, version) or unreachable."""
    model: str = "-"
    device: str = "-"
    load: str = "-"
    jobs: str = "-"
    message: str = ""

    @property
    def ready(self) -> bool:
        return self.state == "ready"


async def ask_all(services: Sequence[ServiceToAsk], *, timeout_s: float) -> list[ServiceStatus]:
    """All services at once; one that does not answer is a row like the others."""
    return await asyncio.gather(*(_ask(service, timeout_s) for service in services))


async def _ask(service: ServiceToAsk, timeout_s: float) -> ServiceStatus:
    answer = ServiceStatus(kind=service.kind, address=service.client.address)
    try:
        async with asyncio.timeout(timeout_s):
            if not await _is_ready(service, timeout_s):
                return replace(answer, state="not ready", message="it starts or stops; try again")
            # Whoever answers the health check is there; what goes wrong from here on is a refusal.
            answer = replace(answer, state="refused")
            describe = _describe_detector if service.kind == "detector" else _describe_recognizer
            return replace(await describe(service.client, answer), state="ready")
    except TimeoutError:
        return replace(answer, message=f"no answer within {timeout_s:g} s")
    except (StalError, OSError) as error:
        return replace(answer, message=str(error).partition("\n")[0])


async def _is_ready(service: ServiceToAsk, timeout_s: float) -> bool:
    async with open_channel(service.client) as channel:
        stub: health_pb2_grpc.HealthStub = health_pb2_grpc.HealthStub(channel)
        try:
            answer = await stub.Check(
                health_pb2.HealthCheckRequest(), timeout=timeout_s, metadata=call_metadata(), wait_for_ready=False
            )
        except grpc.aio.AioRpcError as error:
            raise error_of(error, service=service.kind, address=service.client.address) from error
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


async def _describe_detector(client: ClientConfig, answer: ServiceStatus) -> ServiceStatus:
    async with DetectorClient(DetectorClientConfig(services=(client,))) as detector:
        info = await detector.info()
    return replace(
        answer,
        model=f"{info.name} {info.weights[:15]} {info.height}x{info.width}",
        device=info.device,
        load=f"{info.pending_frames}/{info.queue_size} frames",
    )


async def _describe_recognizer(client: ClientConfig, answer: ServiceStatus) -> ServiceStatus:
    async with RecognizerClient(client) as recognizer:
        models, jobs = await asyncio.gather(recognizer.list_models(), recognizer.list_jobs(limit=_JOBS_LOOKED_AT))
    running = [job.run_id for job in jobs if job.status == pb.JOB_STATUS_RUNNING]
    queued = sum(job.status == pb.JOB_STATUS_QUEUED for job in jobs)
    return replace(
        answer,
        model=f"{len(models)} heads" + (f", newest {models[0].run_id}" if models else ""),
        load=f"{len(running)} running, {queued} queued",
        jobs=", ".join(running) or "none",
    )
