"""Where the records of live key frames go: standard output and a webhook."""

import json
import queue
import threading
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from http.client import HTTPException
from typing import Any, Protocol, TypeAlias
from urllib.parse import urlsplit

import click

from stal_data.errors import InputError

MAX_QUEUED = 100
"""Records that wait for a webhook or a broker; more are given up."""
_PAUSES_S = (1.0, 4.0)
"""Before the second and the third attempt."""
_TIMEOUT_S = 10.0
_PARTING_S = 5.0
Record: TypeAlias = dict[str, Any]


class Output(Protocol):
    """What takes the records of key frames, without waiting for others. picture: JPEG, where `pictures` is set."""

    pictures: bool

    def send(self, record: Record, picture: bytes | None) -> None: ...

    def close(self) -> None:
        """Send what waits, for a few seconds at most."""

    def summary(self) -> str:
        """Return what became of the records; "" where there is nothing to say."""


class JsonLines:
    """A line on standard output for each record."""

    pictures = False

    def send(self, record: Record, picture: bytes | None) -> None:  # noqa: ARG002
        click.echo(json.dumps(record))

    def close(self) -> None:
        """Nothing waits."""

    def summary(self) -> str:
        return ""


class Webhook:
    """POSTs each record as JSON, in a thread of its own: three attempts, no redirects."""

    pictures = False

    def __init__(
        self,
        url: str,
        note: Callable[[str], None],
        *,
        wait: Callable[[threading.Event, float], object] = threading.Event.wait,
    ) -> None:
        """note: told of the first failure after each success. wait: as of `LiveClock`."""
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise InputError(f"The webhook is '{url}', but must be an address with http:// or https://.")
        self._url, self._host, self._note, self._wait = url, parts.hostname, note, wait
        self._opener = urllib.request.build_opener(_NoRedirects)
        self._queue: queue.Queue[bytes | None] = queue.Queue(MAX_QUEUED)
        self._stop = threading.Event()
        self._well = True
        self.sent = self.failed = 0
        self._thread = threading.Thread(target=self._run, name="webhook", daemon=True)
        self._thread.start()

    def send(self, record: Record, picture: bytes | None) -> None:  # noqa: ARG002
        try:
            self._queue.put_nowait(json.dumps(record).encode())
        except queue.Full:
            self._failed(f"{MAX_QUEUED} records wait already")

    def close(self) -> None:
        """The rest has failed."""
        with suppress(queue.Full):
            self._queue.put(None, timeout=_PARTING_S)
            self._thread.join(_PARTING_S)
        self._stop.set()
        while not self._queue.empty():
            with suppress(queue.Empty):
                self.failed += self._queue.get_nowait() is not None

    def summary(self) -> str:
        return f"webhook: {self.sent} sent, {self.failed} failed"

    def _run(self) -> None:
        while not self._stop.is_set() and (body := self._queue.get()) is not None:
            reason: str | None = ""
            for pause_s in (*_PAUSES_S, None):
                reason, again = self._post(body)
                if reason is None or not again or pause_s is None or self._stop.is_set():
                    break
                self._wait(self._stop, pause_s)
            if reason is not None:
                self._failed(reason)
            else:
                self.sent += 1
                self._well = True

    def _post(self, body: bytes) -> tuple[str | None, bool]:
        """Why it failed, None where it did not; and whether to try again."""
        request = urllib.request.Request(self._url, body, {"Content-Type": "application/json"})  # noqa: S310 - checked
        try:
            with self._opener.open(request, timeout=_TIMEOUT_S):
                return None, False
        except urllib.error.HTTPError as error:
            error.close()
            return f"status {error.code}", error.code >= 500 or error.code in (408, 429)
        except (OSError, HTTPException) as error:
            return str(getattr(error, "reason", error)) or type(error).__name__, True

    def _failed(self, reason: str) -> None:
        self.failed += 1
        if self._well:
            self._well = False
            self._note(f"the webhook at {self._host} fails ({reason}); goes on without it")


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A redirect is a failure: it could lead to another host or scheme."""

    def redirect_request(self, *_: Any) -> None:
        return None
