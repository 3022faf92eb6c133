"""Filling a feature set, shard by shard; safe against a kill at any moment and against a second writer."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import zarr
from numpy.typing import NDArray

from cache.feature_store.create import KEEP_ZEROS, create_set
from cache.feature_store.layout import DEFAULT_ROWS_PER_SHARD, FeatureManifest, RowIndex, checksum, shard_path
from cache.feature_store.locks import ShardClaim, describe_owner
from cache.feature_store.marks import shard_is_done
from cache.feature_store.reader import FeatureBatch, FeatureSet
from cache.feature_store.remote import remote_set, set_folder
from cache.feature_store.use import in_use, locks_folder
from cache.feature_store.values import checked_cast
from cache.files import sync_file, sync_folder, told_when_full
from cache.spec import FeatureSpec
from cache.store import Store
from stal_data.errors import ConflictError, InputError


class FeatureWriter:
    """Writes one feature set. Threads may share it; processes and machines each open their own."""

    def __init__(self, path: Path) -> None:
        """path: the folder of a set that exists; `FeatureWriter.open` makes one when needed."""
        self.path = path
        self._set = FeatureSet(path)
        self._locks = locks_folder(path)
        self._remote = remote_set(path)
        # A shard of a bucket is written here first, apart from what this machine's readers have.
        self._folder = path if self._remote is None else self._remote.scratch(self)

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
        path = set_folder(store, dataset, split, spec)
        if not path.exists():
            manifest = FeatureManifest(
                dataset=dataset,
                split=split,
                spec=spec,
                shapes=dict(shapes),
                num_rows=count,
                rows_per_shard=rows_per_shard or balanced_rows_per_shard(count),
            )
            with told_when_full(path), in_use(path):
                create_set(path, manifest, index)
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
        claim = ShardClaim.take(self._locks, shard)
        if claim is None or self._remote is None:
            return claim
        try:
            claim.lease = self._remote.take_lease(shard)
        finally:
            if claim.lease is None:
                claim.release()
        return None if claim.lease is None else claim

    def is_pending(self, shard: int) -> bool:
        return not shard_is_done(self.path, self.manifest, shard)

    def owner(self, shard: int) -> str:
        """Return who holds, or last held, the claim on a shard."""
        owner = None if self._remote is None else self._remote.owner(shard)
        return describe_owner(self._locks, shard) if owner is None else str(owner)

    def write_shard(self, claim: ShardClaim, features: FeatureBatch) -> None:
        """Write all rows of the claimed shard and mark them done.

        features: float32, the rows `manifest.rows_of(claim.shard)` in order, with exactly the set's arrays.
        """
        assert claim.held
        manifest, index = self.manifest, self._set.index
        rows = manifest.rows_of(claim.shard)
        blocks = self._blocks(rows, features)
        digests = [index.digest(row, [checksum(block[i]) for block in blocks.values()]) for i, row in enumerate(rows)]
        with told_when_full(self.path):
            written = [self._write(name, claim.shard, block) for name, block in blocks.items()]
            written.append(self._write("digest", claim.shard, np.array(digests, np.uint64)))
            self._finish(claim, written)
            self._finish(claim, [self._write("done", claim.shard, np.ones(len(rows), np.uint8))])

    def reset_shard(self, claim: ShardClaim) -> None:
        """Mark the rows of the claimed shard as not done."""
        assert claim.held
        size = self.manifest.rows_per_shard
        with told_when_full(self.path):
            self._finish(claim, [self._write("done", claim.shard, np.zeros(size, np.uint8))])
            # It may be what is damaged.
            self._finish(claim, [self._write("digest", claim.shard, np.zeros(size, np.uint64))])

    def _blocks(self, rows: range, features: FeatureBatch) -> dict[str, NDArray[Any]]:
        """Check the features and return them in the stored types."""
        manifest = self.manifest
        keys = [self._set.index.key_frames[row] for row in rows]
        blocks = {}
        for name, values in vars(features).items():
            if (values is None) == (name in manifest.shapes):
                raise InputError(f"The array '{name}' is {'missing' if values is None else 'not part of the set'}.")
            if values is None:
                continue
            if values.shape != (len(rows), *manifest.shapes[name]):
                raise InputError(
                    f"The array '{name}' has shape {list(values.shape)}; the shard needs "
                    f"{[len(rows), *manifest.shapes[name]]}."
                )
            blocks[name] = checked_cast(name, values, manifest.dtype(name), keys)
        return blocks

    def _write(self, name: str, shard: int, rows: NDArray[Any]) -> Path:
        """Write one shard of one array, padded with zeros; returns its file, which is not yet durable."""
        manifest = self.manifest
        path = self._folder / name / "c" / str(shard)
        if name in manifest.shapes:
            path = shard_path(self._folder, manifest, name, shard)
        # A killed writer may have left these. Zarr would read the old shard first, and fail if it is torn.
        for stale in (path, *path.parent.glob(f"{path.name}.*.partial")):
            stale.unlink(missing_ok=True)
        size = manifest.rows_per_shard
        block = np.zeros((size, *rows.shape[1:]), rows.dtype)
        block[: len(rows)] = rows
        array = zarr.open_array(self._folder / name, mode="r+", zarr_format=3).with_config(KEEP_ZEROS)
        array[shard * size : (shard + 1) * size] = block
        return path

    def _finish(self, claim: ShardClaim, files: Sequence[Path]) -> None:
        """Make written files durable, or send them to the bucket."""
        if self._remote is not None and claim.lease is not None:
            self._remote.send(self._folder, files, claim.lease)
            return
        for path in files:
            self._sync(path)

    def _sync(self, path: Path) -> None:
        """Make a file durable, and the names of all new folders above it."""
        sync_file(path)
        folder = path.parent
        while folder != self.path:
            sync_folder(folder)
            folder = folder.parent

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
                "Restore what was changed, or delete the set's folder and precompute again."
            )


def balanced_rows_per_shard(num_rows: int, limit: int = DEFAULT_ROWS_PER_SHARD) -> int:
    """Return rows per shard, at most `limit`, so that the last shard needs the least padding."""
    shards = -(-num_rows // limit)
    return -(-num_rows // shards)
