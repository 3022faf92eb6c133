"""One writer for each shard of a bucket, over machines: a claim that must be renewed, and that others may take over.

The claim is an object, written only where there is none (If-None-Match) or where it is still the one that was read
(If-Match). Ages are differences of the server's own times, so the machines' clocks do not matter.
"""

import json
import os
import socket
import threading
import time
import uuid
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Self

from cache.object_store.bucket import Object
from cache.object_store.mirror import Mirror
from stal_data.errors import ConflictError, StalError

EXPIRES_S = 120.0
"""A claim that was not renewed for so long is free."""
RENEW_S = 30.0
RETRY_S = 5.0
"""After a renewal that failed."""
STOP_S = 90.0
"""So long after the last renewal its owner stops writing; the rest of EXPIRES_S is for what is under way."""


@dataclass(frozen=True, kw_only=True)
class Owner:
    """Who holds a claim, or last held it. silent_s: since it was renewed."""

    process: int
    host: str
    folder: str
    released: bool
    silent_s: float

    @classmethod
    def of(cls, found: Object) -> Self:
        values = json.loads(found.content)
        return cls(
            process=int(values["process"]),
            host=str(values["host"]),
            folder=str(values["folder"]),
            released=bool(values["released"]),
            silent_s=found.age_s,
        )

    def __str__(self) -> str:
        return f"process {self.process} on host {self.host} (heard of {self.silent_s:.0f} s ago)"


class Lease:
    """A claim that is held, and renewed by a thread, until `release`."""

    def __init__(self, mirror: Mirror, key: str, token: str, etag: str, renewed_at: float) -> None:
        self._mirror, self._key, self._token, self._etag = mirror, key, token, etag
        self._renewed_at = renewed_at
        self._lost = False
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="claim", daemon=True)
        self._thread.start()

    @classmethod
    def take(cls, mirror: Mirror, key: str) -> Self | None:
        """Take the claim; None while somebody else has it.

        The caller holds a lock of this machine's kernel for the same thing. So an owner of this very folder is dead.
        """
        mirror.require_conditional_put()
        token, now = uuid.uuid4().hex, _now_s()
        content = _content(mirror, token, released=False)
        etag = mirror.bucket.put_if(key, content, etag=None)
        if etag is None:
            found = mirror.bucket.get(key)
            if found is None or not _is_free(mirror, found):
                return None
            now = _now_s()
            etag = mirror.bucket.put_if(key, content, etag=found.etag)
        return None if etag is None else cls(mirror, key, token, etag, now)

    def check(self) -> None:
        """Refuse to go on writing when the claim may be another's by now."""
        if self._lost or self._late():
            raise ConflictError(
                f"The claim '{self._mirror.bucket.url_of(self._key)}' could not be renewed for {STOP_S:.0f} s, so "
                "another machine may write the shard (was this one stopped, or the network down?); run it again."
            )

    def release(self) -> None:
        """Free the claim, with few attempts: where the bucket does not answer, it expires by itself."""
        self._end.set()
        self._thread.join()
        if not (self._lost or self._late()):
            with suppress(StalError):
                released = _content(self._mirror, self._token, released=True)
                if not self._write(released, attempts=3) and self._find():
                    self._write(released, attempts=3)

    def _keep(self) -> None:
        content, wait_s = self._renewal(), RENEW_S
        while not (self._end.wait(wait_s) or self._lost):
            try:
                self._renew(content)
                content, wait_s = self._renewal(), RENEW_S
            except StalError:  # `check` counts the time; the same content tells whether only the answer was lost
                wait_s = min(RETRY_S, RENEW_S)

    def _renew(self, content: bytes) -> None:
        now = _now_s()
        if self._write(content, attempts=1):  # more would keep `release` waiting for this thread
            self._renewed_at = now
        else:
            self._lost = True

    def _renewal(self) -> bytes:
        return _content(self._mirror, self._token, released=False)

    def _write(self, content: bytes, *, attempts: int) -> bool:
        etag = self._mirror.bucket.put_if(self._key, content, etag=self._etag, attempts=attempts)
        self._etag = etag or self._etag
        return etag is not None

    def _find(self) -> bool:
        """Whether the claim is ours after all: the answer to the last renewal may have been lost."""
        found = self._mirror.bucket.get(self._key)
        if found is None or json.loads(found.content).get("token") != self._token:
            return False
        self._etag = found.etag
        return True

    def _late(self) -> bool:
        return _now_s() - self._renewed_at > STOP_S


def read_owner(mirror: Mirror, key: str) -> Owner | None:
    found = mirror.bucket.get(key)
    with suppress(ValueError, KeyError, TypeError):
        return None if found is None else Owner.of(found)
    return None


def _is_free(mirror: Mirror, found: Object) -> bool:
    try:
        owner = Owner.of(found)
    except (ValueError, KeyError, TypeError):
        return found.age_s > EXPIRES_S
    here = (owner.folder, owner.host) == (mirror.folder_id, socket.gethostname())
    return owner.released or here or owner.silent_s > EXPIRES_S


def _content(mirror: Mirror, token: str, *, released: bool) -> bytes:
    values: dict[str, Any] = {
        "process": os.getpid(),
        "host": socket.gethostname(),
        "folder": mirror.folder_id,
        "released": released,
        "token": token,
        "write": uuid.uuid4().hex,  # a renewal is another object
    }
    return json.dumps(values).encode()


def _now_s() -> float:
    """Time that goes on while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)
