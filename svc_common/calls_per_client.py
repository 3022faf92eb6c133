"""Bounds what one client has in progress, so that it cannot take what the others need."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

import grpc

from svc_common.errors import BusyError

# Quoted: only the type stubs make this class generic.
Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"


class CallsPerClient:
    """So many calls for each client; a client is an address, however many connections it opens."""

    def __init__(self, limit: int, what: str) -> None:
        """what: what is counted, as the refusal names it, e.g. `calls`."""
        self._limit, self._what = limit, what
        self._taken: Counter[str] = Counter()

    @contextmanager
    def one(self, context: Context) -> Iterator[None]:
        """Hold a place of the caller's; BusyError when it has no other."""
        # ipv4:10.0.0.7:43210, ipv6:[::1]:43210
        client = context.peer().rpartition(":")[0]
        taken = self._taken[client]
        if taken >= self._limit:
            raise BusyError(f"{taken} {self._what} of this client are in progress; that is the most it may have")
        self._taken[client] += 1
        try:
            yield
        finally:
            self._taken[client] -= 1
            if not self._taken[client]:
                del self._taken[client]
