"""A run's folder in the store: what lies where, and its event file.

STORE/runs/<run id>/
  recipe.yaml           resolved recipe, written before the workers start
  label_map.pbtxt       the classes of the scores, in order
  provenance.json       what the run was made from, and every start of it
  events.jsonl          one JSON object per line, appended by rank 0
  checkpoints/          latest.pt, and best.pt where the recipe keeps the best
  tensorboard/          scalars
  slowfast.safetensors  SlowFast, where it was trained with the head: of the best checkpoint, else of the latest
  slowfast-latest.safetensors   of the latest, where the best is another
  state.json            {"status": queued | running | succeeded | failed | cancelled | imported}, by who made the run
"""

import json
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

from stal_data.errors import ConflictError

IMPORTED = "imported"
"""Status of a run that was made of a head file: it scores, and there is nothing to resume."""

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
        """Path of `latest` or `best`."""
        return self.root / "checkpoints" / f"{name}.pt"


def refuse_imported(run: RunDir) -> None:
    """Raise where a run that was imported is to be trained on."""
    with suppress(FileNotFoundError):
        if json.loads(run.state.read_text(encoding="utf-8")).get("status") == IMPORTED:
            raise ConflictError(
                f"Run '{run.run_id}' was imported and holds no optimizer state to go on with. Start a new run from its "
                "head file with training.init_head."
            )


def read_events(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the events of a file in order; a line that a crash cut off is left out."""
    if not path.exists():
        return
    with path.open("rb") as file:
        for line in file:
            try:
                event = json.loads(line)
            except ValueError:
                continue
            if isinstance(event, dict) and {"seq", "time", "type"} <= event.keys():
                yield event


class EventWriter:
    """Appends events; `seq` counts from 1 without gaps over all starts of a run, `time` is seconds since 1970."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._seq = max((int(event["seq"]) for event in read_events(path)), default=0)
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        if _ends_inside_a_line(path):
            os.write(self._file, b"\n")

    def write(self, kind: EventType, **fields: Any) -> None:
        """Append one event; it is in the file when this returns."""
        self._seq += 1
        line = json.dumps({"seq": self._seq, "time": time.time(), "type": kind, **fields}, allow_nan=False)
        os.write(self._file, line.encode() + b"\n")

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
