"""A run's folder in the store: what lies where, and its event file.

STORE/runs/<run id>/    what decides a score carries a checksum, as do the two .json files and each line of events.jsonl
  recipe.yaml           resolved recipe, written before the workers start
  label_map.pbtxt       the classes of the scores, in order
  provenance.json       what the run was made from, and every start of it
  events.jsonl          one JSON object per line, appended by rank 0
  checkpoints/          latest.safetensors, and best.safetensors where the recipe keeps the best
  tensorboard/          scalars
  slowfast.safetensors  SlowFast, where it was trained with the head: of the best checkpoint, else of the latest
  slowfast-latest.safetensors   of the latest, where the best is another
  state.json            {"status": queued | running | succeeded | failed | cancelled | imported}, by who made the run
"""

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

from stal_data.errors import ConflictError, InputError
from stal_data.sealed import parse_json, read_json, sealed_json

CHECKPOINTS = ("best", "latest")
SUFFIX = ".safetensors"
OLD_SUFFIX = ".pt"
"""Of checkpoints, as this version and earlier ones save them."""
METADATA_KEY = "stal_checkpoint"
"""Of what a checkpoint's header says, JSON text."""
IMPORTED = "imported"
"""Status of a run that was made of a head file: it scores, and there is nothing to resume."""

STATE_WAY_OUT = "Restore it from a copy, or delete it: what the run did is in its events."
CUT_OFF = b"<cut off>"
"""Ends a line that a crash cut off, so that it is not taken for damage."""

EventType = Literal["step", "epoch", "validation", "checkpoint", "log", "error", "done"]


@dataclass(frozen=True, slots=True)
class RunDir:
    """Paths of one run."""

    root: Path

    @property
    def run_id(self) -> str:
        return self.root.name

    @property
    def store_root(self) -> Path:
        """The store that the run lies in: the features are read from there."""
        return self.root.absolute().parent.parent

    @property
    def recipe(self) -> Path:
        return self.root / "recipe.yaml"

    @property
    def label_map(self) -> Path:
        return self.root / "label_map.pbtxt"

    @property
    def provenance(self) -> Path:
        return self.root / "provenance.json"

    @property
    def events(self) -> Path:
        return self.root / "events.jsonl"

    @property
    def state(self) -> Path:
        return self.root / "state.json"

    @property
    def tensorboard(self) -> Path:
        return self.root / "tensorboard"

    @property
    def slowfast(self) -> Path:
        return self.root / "slowfast.safetensors"

    @property
    def slowfast_latest(self) -> Path:
        return self.root / "slowfast-latest.safetensors"

    def checkpoint(self, name: str) -> Path:
        """Path of `latest` or `best`; of an earlier version's file where there is only that."""
        path = self.root / "checkpoints" / f"{name}{SUFFIX}"
        old = path.with_suffix(OLD_SUFFIX)
        return old if old.exists() and not path.exists() else path


def refuse_imported(run: RunDir) -> None:
    """Raise where a run that was imported is to be trained on."""
    if read_json(run.state, STATE_WAY_OUT).get("status") == IMPORTED:
        raise ConflictError(
            f"Run '{run.run_id}' was imported and holds no optimizer state to go on with. Start a new run from its "
            "head file with training.init_head."
        )


def parse_event(line: bytes) -> dict[str, Any] | None:
    """Return the event of a line without its checksum; None for a line that a crash cut off. InputError for others."""
    line = line.removesuffix(b"\n")
    if line.endswith(CUT_OFF):
        return None
    event = parse_json(line, "the line", "")
    if not {"seq", "time", "type"} <= event.keys():
        raise InputError("The line is no event: it lacks seq, time or type.")
    return event


def read_events(path: Path, report: Callable[[str], None] | None = None) -> Iterator[dict[str, Any]]:
    """Yield the events of a file in order, without lines that do not read. report: told of each of those."""
    if not path.exists():
        return
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                if not line.endswith(b"\n"):
                    raise InputError("It is cut off.")
                event = parse_event(line)
            except InputError as error:
                if report is not None:
                    report(f"Line {number} of '{path}' is left out: {error}")
                continue
            if event is not None:
                yield event


class EventWriter:
    """Appends events; `seq` counts from 1 without gaps over all starts of a run, `time` is seconds since 1970."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.seq = max((int(event["seq"]) for event in read_events(path)), default=0)
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        if _ends_inside_a_line(path):
            self._append(CUT_OFF + b"\n")

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


def _ends_inside_a_line(path: Path) -> bool:
    """Whether a crash cut the last line off."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        if size == 0:
            return False
        file.seek(size - 1)
        return file.read(1) != b"\n"
