"""Waiting for a service that is just starting."""

import asyncio
import logging
import time
from collections.abc import Sequence

from svc_common.config import ClientConfig
from svc_common.errors import ServiceError
from svc_common.probe import NotReadyError, probe

log = logging.getLogger(__name__)

_EVERY_S = 0.25
_PROBE_S = 5.0


async def wait_for_start(services: Sequence[ClientConfig]) -> None:
    """Return when one of the services is ready, or waiting does not help, or their `wait_s` is over.

    Waits while ports refuse connections and for services that say that they are not ready. What else is wrong, the
    first real call says.
    """
    wait_s = max(service.wait_s for service in services)
    end, told = time.monotonic() + wait_s, False
    while time.monotonic() < end and all(await asyncio.gather(*map(_starting, services))):
        if not told:
            names = ", ".join(service.address for service in services)
            log.warning("Waiting up to %g s for the service at %s to start (--wait-s).", wait_s, names)
            told = True
        await asyncio.sleep(_EVERY_S)


async def _starting(service: ClientConfig) -> bool:
    try:
        await probe(service, service="", timeout_s=_PROBE_S)
    except NotReadyError:
        return True
    except ServiceError as error:
        return "Connection refused" in str(error)
    return False
