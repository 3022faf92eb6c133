"""Filling a feature set, shard by shard; safe against a kill at any moment and against a second writer."""

from collections.abc import Mapping
from pathlib import Path
from typing import Self

import numpy as np

from cache.feature_store.claim import ShardClaim
from cache.feature_store.create import create_set
from cache.feature_store.deleting import how_to_delete
from cache.feature_store.layout import DEFAULT_ROWS_PER_SHARD, FeatureBatch, FeatureManifest, RowIndex
from cache.feature_store.locate import find_set
from cache.feature_store.reader import FeatureSet
from cache.feature_store.row_status import shard_is_done
from cache.feature_store.set_lock import in_use
from cache.feature_store.shard_writer import SetFiles, ShardWriter
from cache.files import explaining_full_disk
from cache.spec import FeatureSpec
from cache.store import Store
from stal_data.errors import ConflictError, InputError


class FeatureWriter:
    """Writes one feature set. Threads may share it; processes and machines each open their own."""

    def __init__(self, path: Path) -> None:
        """path: the folder of a set that exists; `FeatureWriter.open` makes one when needed."""
        self.path = path
        self._set = FeatureSet(path)
        self._folder = self._set.folder
        self._files = SetFiles(self._folder, self.manifest)

    @classmethod
    def open(
        cls,
        store: Store,
        *,
        dataset: str,
        split: str,
        spec: FeatureSpec,
        index: RowIndex,
        shapes: Mapping[str, tuple[int, ...]],
        rows_per_shard: int | None = None,
    ) -> Self:
        """Create the set, or resume it if it holds the same rows made from the same frames.

        index: every key frame of the split, sorted. shapes: shape of one row of each array, without K.
        rows_per_shard: only for a new set; by default at most 64, with shards of nearly equal size.
        """
        count = len(index.key_frames)
        if not count:
            raise InputError(f"{dataset}/{split} has no key frames; a feature set needs at least one.")
        folder = find_set(store, dataset, split, spec)
        path = folder.path
        if not path.exists():
            manifest = FeatureManifest(
                dataset=dataset,
                split=split,
                spec=spec,
                shapes=dict(shapes),
                num_rows=count,
                rows_per_shard=rows_per_shard or balanced_rows_per_shard(count),
            )
            with explaining_full_disk(path), in_use(path):
                create_set(folder, manifest, index)
        writer = cls(path)
        writer._check_same(spec, index, shapes)
        return writer

    @property
    def manifest(self) -> FeatureManifest:
        return self._set.manifest

    def pending(self) -> list[int]:
        """Return the shards with rows that are not done."""
        done = self._set.done
        return [s for s in range(self.manifest.num_shards) if not done[list(self.manifest.rows_of(s))].all()]

    def claim(self, shard: int) -> ShardClaim | None:
        """Return the right to write a shard, or None while somebody else holds it. Check `is_pending` afterwards."""
        return self._folder.claim(shard)

    def claim_or_refuse(self, shard: int) -> ShardClaim:
        """Return the right to write a shard; an error while somebody else holds it. Check `is_pending` afterwards."""
        claim = self.claim(shard)
        if claim is None:
            owner = self.owner(shard)
            raise ConflictError(f"Shard {shard} of '{self.path}' is being written by {owner}; try again later.")
        return claim

    def is_pending(self, shard: int) -> bool:
        return not shard_is_done(self._folder, self.manifest, shard)

    def owner(self, shard: int) -> str:
        """Return who holds, or last held, the claim on a shard."""
        return self._folder.owner(shard)

    def output(self, claim: ShardClaim) -> ShardWriter:
        """Return what takes the rows of the claimed shard, as many at a time as there are."""
        return ShardWriter(self._files, self._set.index, claim)

    def write_shard(self, claim: ShardClaim, features: FeatureBatch) -> None:
        """Write all rows of the claimed shard and mark them done.

        features: float32, the rows `manifest.rows_of(claim.shard)` in order, with exactly the set's arrays.
        """
        with self.output(claim) as output:
            output.add(self.manifest.rows_of(claim.shard), features)
            output.finish()

    def reset_shard(self, claim: ShardClaim) -> None:
        """Mark the rows of the claimed shard as not done."""
        assert claim.held
        size = self.manifest.rows_per_shard
        with explaining_full_disk(self.path):
            self._files.settle(claim, [self._files.write_column("done", claim.shard, np.zeros(size, np.uint8))])
            # It may be what is damaged.
            self._files.settle(claim, [self._files.write_column("digest", claim.shard, np.zeros(size, np.uint64))])

    def _check_same(self, spec: FeatureSpec, index: RowIndex, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Refuse to mix rows of two makes in one set."""
        stored, manifest = self._set.index, self.manifest
        problems = spec.diff(manifest.spec)
        if dict(manifest.shapes) != dict(shapes):
            problems.append(f"shapes: {dict(shapes)} / {dict(manifest.shapes)}")
        if stored.key_frames != index.key_frames:
            mine, theirs = set(index.key_frames), set(stored.key_frames)
            examples = ", ".join(map(str, sorted(mine ^ theirs)[:3]))
            problems.append(f"key frames: {len(mine)} / {len(theirs)}, for example {examples}")
        else:
            for field, now, then in (
                ("window", index.windows_K2, stored.windows_K2),
                ("source (the frames' content)", index.sources_K, stored.sources_K),
            ):
                changed = np.flatnonzero((now != then).reshape(len(now), -1).any(axis=1))
                if changed.size:
                    key = index.key_frames[int(changed[0])]
                    problems.append(
                        f"{field} of {changed.size} key frames, first {key}: {now[changed[0]]} / {then[changed[0]]}"
                    )
        if problems:
            raise ConflictError(
                f"The feature set '{self.path}' was made from something else (now / stored): {'; '.join(problems)}. "
                f"Restore what was changed, or {how_to_delete(self.path)} and precompute again."
            )


def balanced_rows_per_shard(num_rows: int, limit: int = DEFAULT_ROWS_PER_SHARD) -> int:
    """Return rows per shard, at most `limit`, so that the last shard needs the least padding."""
    shards = -(-num_rows // limit)
    return -(-num_rows // shards)
