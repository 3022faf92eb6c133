"""Checks the bearer token of a request."""

import hmac
from pathlib import Path

from svc_common.config import read_tokens
from svc_common.reloaded import Reloaded


class TokenCheck:
    """Takes any token of a file, as the file is at the time of the request; without a file it takes every request."""

    def __init__(self, file: Path | None) -> None:
        self._tokens = Reloaded([file], lambda: read_tokens(file)) if file is not None else None

    def accepts(self, authorization: str) -> bool:
        """authorization: the header of that name, "" without."""
        if self._tokens is None:
            return True
        sent = authorization.encode()
        # All are compared, so that the time tells nothing about which one came close.
        matches = [hmac.compare_digest(sent, f"Bearer {token}".encode()) for token in self._tokens.get()]
        return any(matches)
