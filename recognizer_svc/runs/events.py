"""The event file of a run: one JSON object a line, each with a checksum. Rank 0 appends, anybody may read meanwhile."""

import logging
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

from stal_data.errors import InputError, StalError
from stal_data.sealed import parse_json, sealed_json

_LOG = logging.getLogger(__name__)
T = TypeVar("T")
_CUT_OFF = b"<cut off>"
"""Ends a line that a crash cut off, so that it is not taken for damage."""
_BYTES_PER_READ = 1 << 20  # 1 MiB: what one watcher holds in memory of a long history
_TAIL_BYTES = 1 << 16

EventType = Literal["step", "epoch", "validation", "checkpoint", "log", "error", "done", "precompute"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """One line of events.jsonl."""

    seq: int
    """From 1 without gaps, over all attempts of the run."""
    time_s: float
    """Seconds since 1970."""
    type: str
    """An EventType, or one of a later version."""
    values: dict[str, Any]
    """The line's other keys."""


class EventWriter:
    """Appends events."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.seq = max((event.seq for event in read_events(path)), default=0)
        """Number of the last event."""
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        size = os.fstat(self._file).st_size
        if size and os.pread(self._file, 1, size - 1) != b"\n":
            self._append(_CUT_OFF + b"\n")

    def write(self, kind: EventType, **fields: Any) -> None:
        """Append one event; it is in the file when this returns."""
        self.seq += 1
        self._append(sealed_json({"seq": self.seq, "time": time.time(), "type": kind, **fields}, indent=None) + b"\n")

    def sync(self) -> None:
        """Make what was written durable."""
        os.fsync(self._file)

    def _append(self, data: bytes) -> None:
        while data:  # on a disk that gets full a write takes a part, and the next one fails
            data = data[os.write(self._file, data) :]

    def close(self) -> None:
        os.close(self._file)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class EventReader:
    """Returns the events of a file that grows, in order and each once; lines are taken only when they are complete."""

    def __init__(
        self, path: Path, *, from_seq: int = 0, offset: int = 0, report: Callable[[str], object] = _LOG.warning
    ) -> None:
        """from_seq: events with a lower number are left out. offset: byte at which a line starts.

        report: told of each line that does not read; it is left out.
        """
        self._path, self._from_seq, self._report = path, from_seq, report
        self._offset = offset
        self._where = f"of '{path}'" + (f" after byte {offset}" if offset else "")
        self._number = 0
        self._rest = b""

    def read(self) -> tuple[list[Event], bool]:
        """The next events, and whether the end of the file was reached."""
        try:
            with self._path.open("rb") as file:
                file.seek(self._offset)
                block = file.read(_BYTES_PER_READ)
        except FileNotFoundError:
            return [], True
        self._offset += len(block)
        *lines, self._rest = (self._rest + block).split(b"\n")
        events = [event for line in lines if (event := self._parse(line)) is not None]
        return [event for event in events if event.seq >= self._from_seq], len(block) < _BYTES_PER_READ

    def end(self) -> None:
        """Say that nothing more comes, so that a last line without its end counts as damage."""
        if self._rest:
            self._report(f"Line {self._number + 1} {self._where} is left out: It is cut off.")

    def _parse(self, line: bytes) -> Event | None:
        self._number += 1
        try:
            return _parse(line)
        except InputError as error:
            self._report(f"Line {self._number} {self._where} is left out: {error}")
            return None


def read_events(path: Path, *, offset: int = 0, report: Callable[[str], object] = _LOG.warning) -> Iterator[Event]:
    """Yield the events that a file has now; see `EventReader`."""
    reader, complete = EventReader(path, offset=offset, report=report), False
    while not complete:
        events, complete = reader.read()
        yield from events
    reader.end()


def _parse(line: bytes) -> Event | None:
    """Return the event of a line; None for a line that a crash cut off. InputError for others."""
    if line.endswith(_CUT_OFF):
        return None
    values = parse_json(line, "the line", "")
    seq, time_s, kind = (values.pop(name, None) for name in ("seq", "time", "type"))
    if not (isinstance(seq, int) and isinstance(time_s, int | float) and isinstance(kind, str)):
        raise InputError(f"The line is no event: its seq is {seq!r:.50}, time {time_s!r:.50}, type {kind!r:.50}.")
    return Event(seq=seq, time_s=time_s, type=kind, values=values)


@dataclass(frozen=True, kw_only=True)
class LastStep:
    """Where a training stands, by its latest step event."""

    progress: float
    """Steps done of all, in [0,1]."""
    loss: float
    actors_per_s: float
    data_wait: float
    """Share of the time that was spent waiting for features, in [0,1]."""


@dataclass(frozen=True, kw_only=True)
class LastRows:
    """Where a precompute job stands, by its latest event. phase, done, total: see `PrecomputeEvent`."""

    phase: str
    done: int
    total: int


def last_step(path: Path, *, offset: int) -> LastStep | None:
    """The latest step event; None where the end of the file, the part after byte `offset`, has none."""
    return _last(path, "step", _last_step, offset)


def last_rows(path: Path, *, offset: int) -> LastRows | None:
    """The same of a precompute job's events."""
    return _last(path, "precompute", _last_rows, offset)


def _last(path: Path, kind: EventType, parse: Callable[[dict[str, Any]], T], offset: int) -> T | None:
    try:
        with path.open("rb") as file:
            file.seek(max(file.seek(0, os.SEEK_END) - _TAIL_BYTES, offset))
            lines = file.read().split(b"\n")[:-1]  # the last one may not be complete yet
    except FileNotFoundError:
        return None
    for line in reversed(lines):
        if line.startswith(b"{") and f'"type": "{kind}"'.encode() in line:
            try:
                if (event := _parse(line)) is not None:
                    return parse(event.values)
            except (StalError, LookupError, TypeError, ValueError, ZeroDivisionError):
                # A crash may have cut it off; the one before tells nearly as much.
                _LOG.warning("skipped an unreadable line of %s: %.80r", path, line)
    return None


def _last_step(step: dict[str, Any]) -> LastStep:
    done = (step["epoch"] - 1) * step["steps_per_epoch"] + step["step"]
    return LastStep(
        progress=float(done / (step["epochs"] * step["steps_per_epoch"])),
        loss=float(step["loss"]),
        actors_per_s=float(step["actors_per_s"]),
        data_wait=float(step["data_s"] / max(step["data_s"] + step["compute_s"], 1e-9)),
    )


def _last_rows(values: dict[str, Any]) -> LastRows:
    return LastRows(phase=str(values["phase"]), done=int(values["rows_done"]), total=int(values["rows_total"]))
