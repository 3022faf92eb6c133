"""Runs precompute into a bucket in children that die by SIGKILL at chosen requests; see test_killed_writers.py.

Arguments: folder of the frames, a moment of MOMENTS for each child. The child called M fills s3://cache/M.
"""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cache.backbones.load import load_backbone
from cache.object_store.bucket import Bucket
from cache.precompute import precompute
from cache.store import Store
from tests.cache.samples import make_split

MOMENTS: dict[str, Callable[[str, bool], bool]] = {
    "set-half-made": lambda key, done: done and key.endswith("/slow/zarr.json"),
    "set-made-but-not-named": lambda key, done: not done and key.count("/") == 4 and key.endswith("/zarr.json"),
    "rows-half-sent": lambda key, done: done and "/fast/c/1/" in key,
    "rows-sent-but-not-done": lambda key, done: not done and key.endswith("/done/c/1"),
    "done-but-still-claimed": lambda key, done: done and key.endswith("/done/c/2"),
}
"""By key of an object, and whether it is already written."""


def run(frames: Path, url: str) -> None:
    precompute(
        make_split(frames),
        Store.open(url, create=True),
        slowfast=load_backbone("slowfast", weights="random:0", preset="tiny"),
        vit=None,
        views=("identity",),
        batch_size=2,
        rows_per_shard=4,
    )


def die_at(moment: str) -> None:
    put, dies = Bucket._put, MOMENTS[moment]

    def wrapped(self: Bucket, key: str, *arguments: Any) -> str:
        if dies(key, False):
            os.kill(os.getpid(), signal.SIGKILL)
        etag = put(self, key, *arguments)
        if dies(key, True):
            os.kill(os.getpid(), signal.SIGKILL)
        return etag

    Bucket._put = wrapped


def main() -> None:
    frames, *moments = sys.argv[1:]
    for moment in moments:
        pid = os.fork()  # before any thread; the imports are paid for once
        if pid == 0:
            die_at(moment)
            run(Path(frames), f"s3://cache/{moment}")
            os._exit(0)
        print(moment, -os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


if __name__ == "__main__":
    main()
