"""Runs precompute in children that are killed (SIGKILL) at chosen and at random moments; see test_precompute_kill.py.

Arguments: folder of the frames, folder for the stores, seed and number of the random moments. Writes one line for each
child: its name, the signal that ended it (0 = it ended itself) and the key frames that it had begun to compute.
"""

import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cache.backbones import BACKBONES
from cache.backbones.load import load_backbone
from cache.feature_store.shard_writer import ArrayFile, SetFiles
from cache.precompute import PrecomputeOptions, precompute
from cache.precompute.extract import Extractor
from cache.store import Store
from tests.cache.samples import Layout, make_split

ROWS_PER_SHARD = 4
BATCH = 2
MAX_LOST = ROWS_PER_SHARD + 4 * BATCH
"""Key frames: a shard, and the batches under way, two that cores compute and two that wait."""


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def before_array(name: str, shard: int) -> None:
    """Die before this array of this shard is begun."""
    begin = SetFiles.open_array

    def wrapped(self: SetFiles, array: str, number: int) -> ArrayFile:
        if (array, number) == (name, shard):
            die()
        return begin(self, array, number)

    SetFiles.open_array = wrapped


def before_column(name: str, shard: int) -> None:
    """Die before this column of this shard is written, with all that comes earlier written."""
    write = SetFiles.write_column

    def wrapped(self: SetFiles, column: str, number: int, values: Any) -> Path:
        if (column, number) == (name, shard):
            die()
        return write(self, column, number, values)

    SetFiles.write_column = wrapped


def half_an_array(name: str, shard: int) -> None:
    """Die with half of a file written under its final name, as on a file system that does not keep renames in order."""
    finish = ArrayFile.finish

    def wrapped(self: ArrayFile) -> Path:
        path = finish(self)
        if f"{name}/c/{shard}/" in str(path):
            os.truncate(path, path.stat().st_size // 2)
            die()
        return path

    ArrayFile.finish = wrapped


KILLS: dict[str, Callable[[], None]] = {
    "first-shard": lambda: before_array("slow", 0),
    "torn-array": lambda: half_an_array("fast", 1),
    "before-digest": lambda: before_column("digest", 1),
    "last-shard": lambda: before_column("done", 2),
}


def count_launches(log: Path) -> None:
    """Write a line for each batch that is given to the model: its clips."""
    launch = Extractor.launch

    def wrapped(self: Extractor, clips: Any, views: Any) -> Any:
        with log.open("a") as file:
            file.write(f"{len(next(iter(clips.values())))}\n")
        return launch(self, clips, views)

    Extractor.launch = wrapped


def run(frames: Path, store: Path, dead_after_clips: int | None = None, layout: Layout = "pooled") -> None:
    def progress(stage: str, done: int, total: int) -> None:
        if stage == "extract" and done == dead_after_clips:
            die()

    precompute(
        make_split(frames),
        Store.open(store, create=True),
        PrecomputeOptions(
            backbones=[
                load_backbone(
                    kind,
                    weights="random:0",
                    preset="tiny",
                    statistics=BACKBONES[kind].all_time_steps() if layout == "full" else None,
                )
                for kind in ("slowfast", "vit")
            ],
            views=("identity", "hflip"),
            batch_size=BATCH,
            rows_per_shard=ROWS_PER_SHARD,
        ),
        progress=progress,
    )


def fork(child: Callable[[], None]) -> int:
    """Start a child, before this process has started any thread: the imports are paid for once."""
    pid = os.fork()
    if pid == 0:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
        child()
        os._exit(0)
    return pid


def killed_after(child: Callable[[], None], delay_s: float | None) -> int:
    """Run a child, kill it after a while unless it has ended, and return the signal that ended it."""
    pid = fork(child)
    if delay_s is not None:
        signal.sigtimedwait({signal.SIGCHLD}, delay_s)
        os.kill(pid, signal.SIGKILL)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    while signal.sigtimedwait({signal.SIGCHLD}, 0):
        pass  # of this child
    return -status


def main() -> None:
    frames, stores, seed, moments = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})

    def report(name: str, child: Callable[[], None], delay_s: float | None = None) -> None:
        log = stores / f"{name}.log"
        log.touch()
        ended = killed_after(lambda: (count_launches(log), child()), delay_s)
        print(name, ended, sum(map(int, log.read_text().split())), flush=True)

    started = time.monotonic()
    report("whole", lambda: run(frames, stores / "whole"))
    duration_s = time.monotonic() - started
    for name, prepare in KILLS.items():
        report(name, lambda name=name, prepare=prepare: (prepare(), run(frames, stores / name)))
    report("after-6-clips", lambda: run(frames, stores / "after-6-clips", 6))
    report("whole-full", lambda: run(frames, stores / "whole-full", layout="full"))
    report("torn-array-full", lambda: (KILLS["torn-array"](), run(frames, stores / "torn-array-full", layout="full")))
    draw = random.Random(seed)
    for number in range(moments):
        name = f"random-{number:02d}"
        report(name, lambda name=name: run(frames, stores / name), draw.uniform(0, duration_s))


if __name__ == "__main__":
    main()
