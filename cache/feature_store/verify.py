"""Checking every row of a set against its checksums and digest, and giving damaged shards back to precompute."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cache.feature_store.reader import FeatureSet
from cache.feature_store.writer import FeatureWriter
from stal_data.errors import ConflictError, StalError


@dataclass(frozen=True, kw_only=True)
class DamagedShard:
    """shard: its number. reason: what the first bad row says."""

    shard: int
    reason: str


def verify_feature_set(path: Path, report: Callable[[int], None] | None = None) -> list[DamagedShard]:
    """Read every row that is done, from the disk or its cache, and return the shards with a bad one.

    report: told the number of rows checked so far.
    """
    features = FeatureSet(path)
    manifest, done = features.manifest, features.done
    damaged = []
    for shard in range(manifest.num_shards):
        rows = manifest.rows_of(shard)
        for row in rows:
            if not done[row]:
                continue
            try:
                features.read([row])
            except StalError as error:
                damaged.append(DamagedShard(shard=shard, reason=str(error)))
                break
        if report:
            report(rows.stop)
    return damaged


def reset_shard(path: Path, shard: int) -> None:
    """Mark all rows of a shard as not done, so that precompute computes them again."""
    writer = FeatureWriter(path)
    claim = writer.claim(shard)
    if claim is None:
        raise ConflictError(f"Shard {shard} of '{path}' is being written by {writer.owner(shard)}; try again later.")
    with claim:
        writer.reset_shard(claim)
