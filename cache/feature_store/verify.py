"""Checking every row of a set against its checksums and digest, and giving damaged shards back to precompute."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cache.feature_store.errors import DamagedError
from cache.feature_store.layout import FeatureBatch
from cache.feature_store.reader import FeatureSet
from cache.feature_store.writer import FeatureWriter
from stal_data.keyframes import KeyFrame


@dataclass(frozen=True, kw_only=True)
class DamagedShard:
    """shard: its number. key_frames: of its bad rows. reason: what the first of them says."""

    shard: int
    key_frames: tuple[KeyFrame, ...]
    reason: str


def verify_feature_set(path: Path, report: Callable[[int], None] | None = None) -> list[DamagedShard]:
    """Read every row that is done, from the disk or its cache, and return the shards with bad ones.

    A set whose metadata or index are damaged is an error: it can only be deleted and computed again. So is a disk or a
    bucket that does not answer, which says nothing about the rows.
    report: told the number of rows checked so far.
    """
    features = FeatureSet(path)
    manifest, marks, keys = features.manifest, features.marks(), features.key_frames
    # From a bucket a shard at a time, since every request takes a while.
    buffer, shard_buffer = features.allocate(1), features.allocate(manifest.rows_per_shard if features.in_bucket else 0)
    damaged = []
    for shard in range(manifest.num_shards):
        rows = manifest.rows_of(shard)
        bad: list[KeyFrame] = []
        reason = marks.damaged.get(shard, "")
        if reason:
            bad = [keys[row] for row in rows]
        suspects = [row for row in rows if marks.done_K[row]]
        if features.in_bucket and _all_sound(features, suspects, shard_buffer):
            suspects = []
        for row in suspects:
            try:
                features.read_into([row], buffer)
            except DamagedError as error:
                bad.append(keys[row])
                reason = reason or str(error)
        if bad:
            damaged.append(DamagedShard(shard=shard, key_frames=tuple(bad), reason=reason))
        if report:
            report(rows.stop)
    return damaged


def _all_sound(features: FeatureSet, rows: list[int], buffer: FeatureBatch) -> bool:
    try:
        features.read_into(rows, buffer)
    except DamagedError:
        return False
    return True


def reset_shard(path: Path, shard: int) -> None:
    """Mark all rows of a shard as not done, so that precompute computes them again."""
    writer = FeatureWriter(path)
    with writer.claim_or_refuse(shard) as claim:
        writer.reset_shard(claim)
