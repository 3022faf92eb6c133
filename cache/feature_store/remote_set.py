"""A feature set in a bucket: its small files are mirrored, its shards are read there, staged, or sent there."""

import json
import re
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cache.feature_store.claim import ShardClaim
from cache.feature_store.layout import COLUMNS, TIME_COLUMNS
from cache.feature_store.metadata import FILE
from cache.feature_store.scratch import new_scratch
from cache.feature_store.set_folder import Pair, SetFolder
from cache.feature_store.set_lock import sole_use
from cache.feature_store.shards import CHECKSUM, MappedFile, RowSource
from cache.files import explaining_full_disk, locked
from cache.object_store.bucket import Bucket
from cache.object_store.claims import Lease, read_owner
from cache.object_store.mirror import Mirror, same_content, write_or_remove
from stal_data.errors import ConflictError
from stal_data.files import temporary_name

_MARKS = ("done", "digest")
_CREATION = "creation"


class RemoteSet(SetFolder):
    """path: the set's folder in the mirror."""

    syncs = False

    def __init__(self, mirror: Mirror, path: Path) -> None:
        super().__init__(path)
        self._mirror = mirror
        self._key = mirror.key_of(path)
        self.staged = mirror.stage is not None

    def refresh(self) -> bool:
        """Bring the metadata and the index here; False, and no folder, where the bucket has no such set."""
        found = self._mirror.bucket.get(f"{self._key}/{FILE}")
        here = self.path / FILE
        if found is not None and here.is_file() and here.read_bytes() == found.content:
            # The others may differ nevertheless: damaged here, or of a set that was made anew from other frames.
            self._mirror.bucket.map(self._mirror.fetch, [self.path / name for name in _fixed_files(found.content)])
            return True
        if self.path.exists():
            with sole_use(self.path):  # the set was deleted in the bucket, and perhaps made anew
                shutil.rmtree(self.path)
        if found is None:
            return False
        partial = temporary_name(self.path)
        try:
            names = _fixed_files(found.content)
            contents = self._mirror.bucket.map(lambda name: self._mirror.bucket.get(f"{self._key}/{name}"), names)
            for name, item in zip(names, contents, strict=True):
                if item is not None:
                    write_or_remove(partial / name, item.content)
            write_or_remove(partial / FILE, found.content)
            with suppress(OSError):  # another process may have been faster
                partial.rename(self.path)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        return True

    def refresh_marks(self, shard: int | None = None) -> None:
        """Make `done` and `digest` what the bucket has, of one shard or all; a row is done here only after its digest.

        Staged shards whose digests changed are removed.
        """
        # `done` is fetched first and stored last: so every digest here is at least as new.
        done = self._changed("done", shard)
        digest = self._changed("digest", shard)
        for number, content in digest.items():
            write_or_remove(self.path / "digest" / "c" / number, content)
            self.unstage(number)
        for number, content in done.items():
            write_or_remove(self.path / "done" / "c" / number, content)

    def open_shard(self, path: Path) -> RowSource:
        """Open one shard of one array, of which `path` is the place in the mirror."""
        key, stage = self._mirror.key_of(path), self._mirror.stage
        if stage is None:
            return RemoteFile(self._mirror.bucket, key)
        while True:
            stage.fetch(self._mirror.bucket, key, path)
            with suppress(FileNotFoundError):  # removed already, to make room
                return MappedFile(path)

    @property
    def name(self) -> str:
        """The set's URL."""
        return self._mirror.bucket.url_of(self._key)

    @property
    def in_bucket(self) -> bool:
        return not self.staged

    def read_rows(self, read: Callable[[Sequence[Pair]], None], pairs: Sequence[Pair]) -> None:
        if self.staged:
            read(pairs)
        else:
            self._mirror.bucket.map(lambda pair: read([pair]), pairs)

    def unstage(self, shard: int | str) -> None:
        for name in self._feature_arrays():
            for file in (self.path / name / "c" / str(shard)).rglob("[!.]*"):
                if file.is_file():
                    file.unlink(missing_ok=True)

    def _feature_arrays(self) -> list[str]:
        names = (path.parent.name for path in self.path.glob(f"*/{FILE}"))
        return [name for name in names if name not in COLUMNS]

    def num_bytes(self) -> int:
        return sum(info.num_bytes for info in self._mirror.bucket.objects(f"{self._key}/"))

    def claim(self, shard: int) -> ShardClaim | None:
        claim = super().claim(shard)
        if claim is None:
            return None
        try:
            claim.lease = Lease.take(self._mirror, self._claim_key(f"shard-{shard:06d}"))
        finally:
            if claim.lease is None:
                claim.release()
        return None if claim.lease is None else claim

    def owner(self, shard: int) -> str:
        owner = read_owner(self._mirror, self._claim_key(f"shard-{shard:06d}"))
        return super().owner(shard) if owner is None else str(owner)

    def create(self, made: Path) -> None:
        """Send a new, complete set from the folder `made`, unless another machine has made it meanwhile.

        The group's metadata go last: without them there is no set. The mirror then has what the bucket has.
        """
        with locked(self._locks / f"{_CREATION}.lock"):  # among this machine's processes, as a lease asks
            while (lease := Lease.take(self._mirror, self._claim_key(_CREATION))) is None:
                if self.refresh():
                    return
                time.sleep(1)  # who makes it needs seconds
            try:
                if not self.refresh():
                    self._send_new(made, lease)
            finally:
                lease.release()

    def _send_new(self, made: Path, lease: Lease) -> None:
        bucket = self._mirror.bucket
        left = bucket.objects(f"{self._key}/")
        if any(info.key.startswith(f"{self._key}/done/c/") for info in left):
            raise ConflictError(
                f"'{self.name}' holds computed rows, but its {FILE} is gone; restore that object, or delete "
                "everything below to compute the rows again."
            )
        for info in left:  # by a process that was killed while it made the set
            bucket.delete(info.key)
        files = [path for path in made.rglob("*") if path.is_file() and path != made / FILE]
        bucket.map(lambda path: bucket.put(self._key_in(made, path), path), files)
        lease.check()
        bucket.put(f"{self._key}/{FILE}", made / FILE)
        with suppress(OSError):  # another process may have fetched it already
            made.rename(self.path)

    def write_folder(self, owner: object) -> Path:
        """Return a new folder beside the set with its metadata, apart from what this machine's readers have.

        It goes with `owner`; those of killed processes go now.
        """
        folder = new_scratch(self.path, owner)
        with explaining_full_disk(folder):
            for name in (*self._feature_arrays(), *_MARKS):
                (folder / name).mkdir()
                shutil.copyfile(self.path / name / FILE, folder / name / FILE)
        return folder

    def settle(self, folder: Path, files: Sequence[Path], claim: ShardClaim) -> None:
        """Put shards from the write folder into the bucket, several at once, and remove them here."""
        bucket, lease = self._mirror.bucket, claim.lease
        assert lease is not None

        def send_one(path: Path) -> None:
            lease.check()
            bucket.put(self._key_in(folder, path), path)
            path.unlink()

        bucket.map(send_one, files)

    def _changed(self, name: str, shard: int | None) -> dict[str, bytes | None]:
        """Return the chunks of a column that are not here as in the bucket, by their number; None = not there."""
        bucket, folder = self._mirror.bucket, self.path / name / "c"
        prefix = f"{self._key}/{name}/c/"
        if shard is not None:
            found = bucket.get(f"{prefix}{shard}")
            return {str(shard): None if found is None else found.content}
        there = {info.key.removeprefix(prefix): info.etag for info in bucket.objects(prefix)}
        gone: dict[str, bytes | None] = {path.name: None for path in folder.glob("[0-9]*") if path.name not in there}
        numbers = [number for number, etag in there.items() if not same_content(folder / number, etag)]
        objects = bucket.map(lambda number: bucket.get(f"{prefix}{number}"), numbers)
        return gone | {n: None if item is None else item.content for n, item in zip(numbers, objects, strict=True)}

    def _claim_key(self, name: str) -> str:
        return f"{self._mirror.key_of(self._locks)}/{name}.json"

    def _key_in(self, folder: Path, path: Path) -> str:
        return f"{self._key}/{path.relative_to(folder).as_posix()}"


class RemoteFile:
    """A shard in the bucket, read by ranges."""

    def __init__(self, bucket: Bucket, key: str) -> None:
        self._bucket, self._key = bucket, key
        self.name = bucket.url_of(key)

    def end(self, num_bytes: int) -> tuple[int, bytes]:
        return self._bucket.read_end(self._key, num_bytes)

    def read(self, out: NDArray[np.uint8], start: int, /) -> int:
        stored = bytearray(CHECKSUM.size)
        self._bucket.read_into(self._key, start, [out.data, memoryview(stored)])
        return int(CHECKSUM.unpack(stored)[0])


def _fixed_files(group: bytes) -> list[str]:
    """Return the files of a set, beside the group's own, that never change."""
    try:
        members = json.loads(group)["attributes"]["metadata"]
    except (ValueError, KeyError, TypeError):
        members = ()  # who opens the set says what is wrong with it
    columns = (*COLUMNS, *TIME_COLUMNS.values())
    known = [name for name in members if name in columns or re.fullmatch("[a-z][a-z0-9_]*", name)]
    once = [name for name in known if name in columns and name not in (*_MARKS, "index")]
    return [f"{name}/{FILE}" for name in known] + [f"{name}/c/0" for name in once]
