"""Fills a bucket in a child that dies by SIGKILL at a chosen request; see test_killed_writers.py.

Arguments: a moment of MOMENTS, called M, and a folder of frames to run precompute on; without the folder, the samples
are written. The child fills s3://cache/M.
"""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cache.feature_store import FeatureWriter
from cache.object_store.bucket import Bucket
from cache.spec import FeatureSpec
from cache.store import Store
from tests.cache.samples import SHAPES, SLOWFAST, VIT, make_features, make_index, make_split

MOMENTS: dict[str, Callable[[str, bool], bool]] = {
    "set-half-made": lambda key, done: done and key.endswith("/slow/zarr.json"),
    "set-made-but-not-named": lambda key, done: not done and key.count("/") == 4 and key.endswith("/zarr.json"),
    "rows-half-sent": lambda key, done: done and "/fast/c/1/" in key,
    "rows-sent-but-not-done": lambda key, done: not done and key.endswith("/done/c/1"),
    "done-but-still-claimed": lambda key, done: done and key.endswith("/done/c/2"),
}
"""By key of an object, and whether it is already written."""


def write_samples(url: str) -> None:
    """Write ten rows, or what is missing of them."""
    writer = FeatureWriter.open(
        Store.open(url, create=True),
        dataset="street",
        split="train",
        spec=FeatureSpec(backbones=(SLOWFAST, VIT), decoder="pillow-1", dtype="float32"),
        index=make_index(10),
        shapes=SHAPES,
        rows_per_shard=4,
    )
    arrays = make_features(10)
    for shard in writer.pending():
        rows = writer.manifest.rows_of(shard)
        claim = writer.claim(shard)
        assert claim is not None, writer.owner(shard)
        with claim:
            writer.write_shard(claim, {n: v[rows.start : rows.stop] for n, v in arrays.items()})


def run(frames: Path, url: str) -> None:
    from cache.backbones.load import load_backbone
    from cache.precompute import PrecomputeOptions, precompute

    precompute(
        make_split(frames),
        Store.open(url, create=True),
        PrecomputeOptions(
            backbones=[load_backbone("slowfast", weights="random:0", preset="tiny")],
            views=("identity",),
            batch_size=2,
            rows_per_shard=4,
        ),
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
    moment, *frames = sys.argv[1:]
    die_at(moment)
    if frames:
        run(Path(frames[0]), f"s3://cache/{moment}")
    else:
        write_samples(f"s3://cache/{moment}")


if __name__ == "__main__":
    main()
