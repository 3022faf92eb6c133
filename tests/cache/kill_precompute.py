"""Runs precompute in children that kill themselves (SIGKILL) at chosen moments; see test_precompute_kill.py.

Arguments: folder of the frames, folder for the stores. Writes one line for each child: its name and how it ended.
"""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cache.backbones.load import load_backbone
from cache.feature_store.writer import FeatureWriter
from cache.precompute import precompute
from cache.store import Store
from tests.cache.samples import make_split


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def before_array(name: str, shard: int) -> None:
    """Die before this array of this shard is written, with the earlier ones written."""
    write = FeatureWriter._write

    def wrapped(self: FeatureWriter, array: str, number: int, rows: Any) -> Path:
        if (array, number) == (name, shard):
            die()
        return write(self, array, number, rows)

    FeatureWriter._write = wrapped


def half_an_array(name: str, shard: int) -> None:
    """Die with half of a file written under its final name, as on a file system that does not keep renames in order."""
    write = FeatureWriter._write

    def wrapped(self: FeatureWriter, array: str, number: int, rows: Any) -> Path:
        path = write(self, array, number, rows)
        if (array, number) == (name, shard):
            os.truncate(path, path.stat().st_size // 2)
            die()
        return path

    FeatureWriter._write = wrapped


KILLS: dict[str, Callable[[], None]] = {
    "first-shard": lambda: before_array("slow", 0),
    "torn-array": lambda: half_an_array("fast", 1),
    "before-digest": lambda: before_array("digest", 1),
    "last-shard": lambda: before_array("done", 2),
}


def run(frames: Path, store: Path, dead_after_clips: int | None = None) -> None:
    def progress(stage: str, done: int, total: int) -> None:
        if stage == "extract" and done == dead_after_clips:
            die()

    precompute(
        make_split(frames),
        Store.open(store, create=True),
        slowfast=load_backbone("slowfast", weights="random:0", preset="tiny"),
        vit=load_backbone("vit", weights="random:0", preset="tiny"),
        views=("identity", "hflip"),
        batch_size=2,
        rows_per_shard=4,
        progress=progress,
    )


def main() -> None:
    frames, stores = Path(sys.argv[1]), Path(sys.argv[2])
    children: dict[str, Callable[[], None]] = {}
    for name, prepare in KILLS.items():
        children[name] = lambda name=name, prepare=prepare: (prepare(), run(frames, stores / name))
    children["after-6-clips"] = lambda: run(frames, stores / "after-6-clips", 6)
    for name, child in children.items():
        # Forked before this process has started any thread, to pay for the imports once.
        pid = os.fork()
        if pid == 0:
            child()
            os._exit(0)
        print(name, -os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


if __name__ == "__main__":
    main()
