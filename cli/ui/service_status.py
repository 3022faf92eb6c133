"""What `stal-cli status` asks each service."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from detector_svc.client.detector_client import DetectorClient, DetectorClientConfig
from recognizer_svc.client import RecognizerClient
from stal_data.amounts import amount
from stal_data.errors import StalError
from svc_common.addresses import Resolver, resolve_all, resolve_name
from svc_common.client import RetryPolicy
from svc_common.config import ClientConfig
from svc_common.errors import BusyError
from svc_common.probe import NotReadyError, probe
from svc_common.proxies import through_proxy

Kind = Literal["detector", "recognizer"]
_RETRY = RetryPolicy(retries=1)


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
    """ready, busy (it answers the health check, and has no place or no time for more), not ready (it starts, stops or
    has failed), refused (token, version) or unreachable."""
    model: str = "-"
    device: str = "-"
    load: str = "-"
    jobs: str = "-"
    message: str = ""

    @property
    def ready(self) -> bool:
        return self.state == "ready"


async def ask_all(
    services: Sequence[ServiceToAsk], *, timeout_s: float, resolve: Resolver = resolve_name
) -> list[ServiceStatus]:
    """All services at once, each replica behind a name; one that does not answer is a row like the others."""
    rows = await asyncio.gather(*(_ask_replicas(service, timeout_s, resolve) for service in services))
    return [row for found in rows for row in found]


async def _ask_replicas(service: ServiceToAsk, timeout_s: float, resolve: Resolver) -> list[ServiceStatus]:
    try:
        async with asyncio.timeout(timeout_s):
            replicas, errors = await resolve_all([service.client], resolve)
    except TimeoutError:
        replicas, errors = {}, {service.client.address: StalError(f"the name has no address within {timeout_s:g} s")}
    unresolved = [
        ServiceStatus(kind=service.kind, address=address, message=_first_line(error))
        for address, error in errors.items()
    ]
    asked = (_ask(replace(service, client=client), timeout_s) for client in replicas.values())
    return [*unresolved, *await asyncio.gather(*asked)]


async def _ask(service: ServiceToAsk, timeout_s: float) -> ServiceStatus:
    answer = ServiceStatus(kind=service.kind, address=service.client.address)
    try:
        async with asyncio.timeout(timeout_s):
            await probe(service.client, service="", timeout_s=timeout_s)
            # Whoever answers the health check is there; what goes wrong from here on is a refusal, or too much work.
            answer = replace(answer, state="refused")
            describe = _describe_detector if service.kind == "detector" else _describe_recognizer
            return replace(await describe(service.client, answer), state="ready")
    except NotReadyError as error:
        return replace(answer, state="not ready", message=error.reason)
    except BusyError as error:
        return replace(answer, state="busy", message=_first_line(error))
    except TimeoutError:
        state = "busy" if answer.state == "refused" else answer.state
        return replace(answer, state=state, message=f"no answer{through_proxy(answer.address)} within {timeout_s:g} s")
    except (StalError, OSError) as error:
        return replace(answer, message=_first_line(error))


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]


async def _describe_detector(client: ClientConfig, answer: ServiceStatus) -> ServiceStatus:
    info = await DetectorClient(DetectorClientConfig(services=(client,), retry=_RETRY)).info()
    return replace(
        answer,
        model=f"{info.name} {info.weights[:15]} {info.image_height}x{info.image_width}",
        device=info.device,
        load=f"{info.pending_frames} frames, {info.streams}/{info.max_streams} streams",
    )


async def _describe_recognizer(client: ClientConfig, answer: ServiceStatus) -> ServiceStatus:
    async with RecognizerClient(client) as recognizer:
        models, info = await asyncio.gather(recognizer.list_models(), recognizer.get_info())
    return replace(
        answer,
        model=amount(len(models), "head") + (f", newest {models[0].run_id}" if models else ""),
        device=info.device,
        load=f"{info.requests}/{info.max_requests} calls, "
        + (f"{info.streams}/{info.max_streams} videos, " if info.backbones else "")
        + f"{len(info.running)}/{info.max_jobs} jobs, "
        f"{info.queued_jobs}/{info.max_queued} queued",
        jobs=", ".join(info.running) or "none",
    )
