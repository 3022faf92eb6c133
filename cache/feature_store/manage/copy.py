"""Copying a feature set to another store, shard by shard; safe to kill and to run again."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cache.feature_store.deleting import how_to_delete
from cache.feature_store.manage.diff import diff_feature_sets
from cache.feature_store.reader import FeatureSet
from cache.feature_store.writer import FeatureWriter
from cache.files import replacing
from cache.split_store import load_split, split_file
from cache.store import Store
from stal_data.errors import ConflictError, NotFoundError

Report = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True)
class CopyResult:
    """Rows copied now, rows that were there before, and rows that the source has not computed."""

    copied: int
    present: int
    missing: int


def copy_feature_set(source: Path, target: Store, report: Report | None = None) -> CopyResult:
    """Copy the set in folder `source` to the same place of the store `target`.

    Every row is verified when it is read, and the target's digests are compared with the source's at the end; shards
    that the target has are not copied again. A set of the same spec but of other frames is refused.
    report: told rows done and rows in all.
    """
    features = FeatureSet(source)
    manifest, done_K = features.manifest, features.done
    writer = FeatureWriter.open(
        target,
        dataset=manifest.dataset,
        split=manifest.split,
        spec=manifest.spec,
        index=features.index,
        shapes=manifest.shapes,
        rows_per_shard=manifest.rows_per_shard,
    )
    if writer.manifest.rows_per_shard != manifest.rows_per_shard:
        raise ConflictError(
            f"'{writer.path}' has {writer.manifest.rows_per_shard} rows a shard, '{source}' has "
            f"{manifest.rows_per_shard}; {how_to_delete(writer.path)} and copy again."
        )
    copied = present = 0
    for shard in range(manifest.num_shards):
        rows = manifest.rows_of(shard)
        if not writer.is_pending(shard):
            present += len(rows)
        elif done_K[rows.start : rows.stop].all():
            with writer.claim_or_refuse(shard) as claim:
                if writer.is_pending(shard):
                    writer.write_shard(claim, features.read(rows))
                    copied += len(rows)
                else:  # somebody finished it between the look and the claim
                    present += len(rows)
        if report:
            report(rows.stop, manifest.num_rows)
    _compare(features, FeatureSet(writer.path))
    return CopyResult(copied=copied, present=present, missing=manifest.num_rows - copied - present)


def copy_split(source: Store, target: Store, dataset: str, split: str) -> bool:
    """Copy the published split, without which a set cannot be trained on. False where the source has none."""
    try:
        digest = load_split(source, dataset, split).digest
    except NotFoundError:
        return False
    path = split_file(target, dataset, split)
    target.backend.fetch(path)
    if path.exists():
        if load_split(target, dataset, split).digest != digest:
            raise ConflictError(
                f"'{target.name}' publishes {dataset}/{split} with another content; copy into another store, or delete "
                f"'{path}' if the one in '{source.name}' is right."
            )
        return True
    with replacing(path) as partial:
        shutil.copyfile(split_file(source, dataset, split), partial)
    target.backend.publish(path)
    load_split(target, dataset, split)
    return True


def _compare(features: FeatureSet, copy: FeatureSet) -> None:
    mine, theirs = features.marks(), copy.marks()
    if not ((mine.digests_K != theirs.digests_K) & mine.done_K & theirs.done_K).any():
        return
    different = diff_feature_sets(features.path, copy.path).different  # rows that were there may be rounded otherwise
    if different:
        raise ConflictError(
            f"{len(different)} rows of '{copy.path}' differ from '{features.path}', first {different[0]}; see "
            f"'stal-cli cache diff {features.path} {copy.path}'."
        )
