"""Reading a run's event file while it grows."""

import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recognizer_svc.run_dir import parse_event
from stal_data.errors import StalError

_LOG = logging.getLogger(__name__)
_BYTES_PER_READ = 1 << 20  # 1 MiB: what one watcher holds in memory of a long history
_TAIL_BYTES = 1 << 16


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """One line of events.jsonl."""

    seq: int
    """From 1, over all attempts of the run."""
    time_s: float
    """Seconds since 1970."""
    type: str
    """step, epoch, validation, checkpoint, log, error or done."""
    values: dict[str, Any]
    """The line's other keys."""


@dataclass(frozen=True, kw_only=True)
class LastStep:
    """Where a training stands, by its latest step event."""

    progress: float
    """Steps done of all, in [0,1]."""
    loss: float
    actors_per_s: float
    data_wait: float
    """Share of the time that was spent waiting for features, in [0,1]."""


def last_step(path: Path, *, offset: int) -> LastStep | None:
    """The latest step event; None where the end of the file, the part after byte `offset`, has none."""
    try:
        with path.open("rb") as file:
            file.seek(max(file.seek(0, os.SEEK_END) - _TAIL_BYTES, offset))
            lines = file.read().split(b"\n")[:-1]  # the last one may not be complete yet
    except FileNotFoundError:
        return None
    for line in reversed(lines):
        if line.startswith(b"{") and b'"type": "step"' in line:
            try:
                step = parse_event(line)
                if step is not None:
                    return _last_step(step)
            except (StalError, KeyError, TypeError, ZeroDivisionError):
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


class EventReader:
    """Returns the events of a file in order, each once; lines are taken only when they are complete."""

    def __init__(self, path: Path, *, from_seq: int = 0, offset: int = 0) -> None:
        """from_seq: events with a lower number are left out. offset: byte at which a line starts."""
        self._path = path
        self._from_seq = from_seq
        self._offset = offset
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
        events = [event for line in lines if line and (event := self._parse(line)) is not None]
        return [event for event in events if event.seq >= self._from_seq], len(block) < _BYTES_PER_READ

    def _parse(self, line: bytes) -> Event | None:
        try:
            values = parse_event(line)
            if values is None:
                return None
            return Event(
                seq=int(values.pop("seq")),
                time_s=float(values.pop("time")),
                type=str(values.pop("type")),
                values=values,
            )
        except (StalError, ValueError, TypeError):
            _LOG.warning("skipped an unreadable line of %s: %.80r", self._path, line)
            return None
