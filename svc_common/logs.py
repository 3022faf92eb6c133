"""Log lines of a service as text or as JSON objects, each with the ids of the call and the job that it belongs to.

A client sends one id with all calls of a command (`x-request-id`), so that the lines of several services that worked
for one command can be put together.
"""

import json
import logging
import os
import re
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from functools import cache
from typing import Literal, get_args

LogFormat = Literal["text", "json"]
LOG_FORMATS: tuple[LogFormat, ...] = get_args(LogFormat)
REQUEST_ID_HEADER = "x-request-id"
REQUEST_ID_VARIABLE = "STAL_REQUEST_ID"

_VALID_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_fields: ContextVar[Mapping[str, str]] = ContextVar("log_fields", default={})  # noqa: B039  # never changed in place


@cache
def outgoing_request_id() -> str:
    """The id of all calls of this process: STAL_REQUEST_ID where a script set it, else a new one."""
    return checked_request_id(os.environ.get(REQUEST_ID_VARIABLE, ""))


def checked_request_id(sent: str) -> str:
    """The id that a client sent, or a new one where it sent none, or one that could forge log lines."""
    return sent if _VALID_ID.fullmatch(sent) else uuid.uuid4().hex[:16]


def log_fields() -> Mapping[str, str]:
    """What every line logged here carries."""
    return _fields.get()


@contextmanager
def log_context(**fields: str) -> Iterator[None]:
    """Add fields such as request_id or run_id to every line logged in the block.

    Also in tasks and calls of asyncio.to_thread that begin in it; other threads and executors have no fields of it.
    """
    before = _fields.get()
    _fields.set({**before, **fields})
    try:
        yield
    finally:
        # Not reset(token): a stream that is dropped may be closed in another context than it was opened in.
        _fields.set(before)


def configure_logging(log_format: LogFormat, *, service: str) -> None:
    """Send the process's log lines to stderr.

    service: shown in each JSON line, e.g. `detector`.
    """
    handler = logging.StreamHandler()
    handler.setFormatter(_JsonFormatter(service) if log_format == "json" else _TextFormatter())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)


class _TextFormatter(logging.Formatter):
    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        ids = " ".join(f"{name}={value}" for name, value in _all_fields(record).items())
        return super().formatMessage(record) + (f" [{ids}]" if ids else "")


class _JsonFormatter(logging.Formatter):
    def __init__(self, service: str) -> None:
        super().__init__()
        self._service = service

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "service": self._service,
            "logger": record.name,
            "message": record.getMessage(),
            **_all_fields(record),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


def _all_fields(record: logging.LogRecord) -> dict[str, object]:
    """Of the context, and of the line itself: `log.info(..., extra={"fields": {...}})`."""
    own: Mapping[str, object] = getattr(record, "fields", {})
    return {**_fields.get(), **own}
