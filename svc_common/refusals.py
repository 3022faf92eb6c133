"""Calls that are turned away before they reach a service: counted each, logged now and then."""

import logging
import math
import time

import grpc

log = logging.getLogger(__name__)

LOG_EVERY_S = 10.0
"""Of one status: whoever needs no token to be refused must not fill the log."""


class RefusalLog:
    """One line for each status, with what has come since the last one."""

    def __init__(self) -> None:
        self._logged_at: dict[grpc.StatusCode, float] = {}
        self._unsaid: dict[grpc.StatusCode, int] = {}

    def note(self, code: grpc.StatusCode, reason: str, *, method: str, peer: str) -> None:
        """peer: address and port of the client, as grpc writes them."""
        now = time.monotonic()
        if now - self._logged_at.get(code, -math.inf) < LOG_EVERY_S:
            self._unsaid[code] = self._unsaid.get(code, 0) + 1
            return
        self._logged_at[code] = now
        fields = {"method": method, "code": code.name, "peer": peer, "unlogged": self._unsaid.pop(code, 0)}
        log.warning("call refused: %s", reason, extra={"fields": fields})
