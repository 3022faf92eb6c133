"""Whole shards kept on the local disk: fetched when first read, the least recently used removed when room is needed.

A staged file lies where the shard lies in a local store. Readers verify every row, so nothing here is trusted.
"""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cache.files import locked
from cache.object_store.bucket import PIECE_BYTES, Bucket, ObjectInfo
from stal_data.errors import InputError, StalError
from stal_data.file_lock import FileLock
from stal_data.left_behind import remove_if_left

_LOCK = ".stage.lock"
_PARTIAL = ".partial"
_TOO_MANY = (errno.EMFILE, errno.ENFILE)


class StagedShards:
    """Staged shards below a folder, at most `limit_bytes` of them; threads and processes share it.

    A file that is open when it is removed stays readable for who has it open.
    """

    def __init__(self, root: Path, limit_bytes: int) -> None:
        self._root, self.limit_bytes = root, limit_bytes

    def fetch(self, bucket: Bucket, key: str, path: Path) -> None:
        """Have the object in `path`; returns at once where it is. OSError where the bucket has none."""
        while True:
            partial = path.with_name(f".{path.name}{_PARTIAL}")
            with _own_disk(path):
                with suppress(FileNotFoundError):
                    os.utime(path)  # used now; access times are often switched off
                    return
                lock = FileLock.take(partial, wait=True)  # others wait here for the same shard
            assert lock is not None
            with lock:
                with _own_disk(path):
                    if not lock.still_at_path():
                        continue
                    if path.exists():
                        partial.unlink()
                        continue
                try:
                    self._download(bucket, key, path, lock.descriptor)
                    with _own_disk(path):
                        partial.rename(path)
                except BaseException:
                    partial.unlink(missing_ok=True)
                    raise
                return

    def _download(self, bucket: Bucket, key: str, path: Path, descriptor: int) -> None:
        info = bucket.head(key)
        if info is None:
            raise OSError(f"the bucket has no object '{bucket.url_of(key)}'")
        with _own_disk(path):
            self._make_room(info, descriptor)

        def fetch_piece(start: int) -> None:
            piece = memoryview(bytearray(min(PIECE_BYTES, info.num_bytes - start)))
            bucket.read_into(key, start, [piece], info.etag)
            with _own_disk(path):
                _write_all(descriptor, piece, start)

        bucket.map(fetch_piece, range(0, info.num_bytes, PIECE_BYTES))

    def _make_room(self, info: ObjectInfo, descriptor: int) -> None:
        """Take the file's size from the limit, after removing the files that were used longest ago."""
        if info.num_bytes > self.limit_bytes:
            raise InputError(
                f"The shard '{info.key}' has {info.num_bytes / 1e6:.0f} MB, more than the stage may hold "
                f"({self.limit_bytes / 1e6:.0f} MB); raise --stage-limit, or leave --stage out."
            )
        with locked(self._root / _LOCK):
            files = sorted(self._staged())
            # Of what is being fetched, a part that no process has locked was left by one that was killed.
            files = [file for file in files if not (file[2].suffix == _PARTIAL and remove_if_left(file[2]))]
            free = self.limit_bytes - info.num_bytes - sum(size for _, size, _ in files)
            for _, size, path in files:
                if free >= 0:
                    break
                if path.suffix != _PARTIAL:
                    path.unlink(missing_ok=True)
                    free += size
            if free < 0:
                raise StalError(
                    f"The stage in '{self._root}' has no room for '{info.key}' beside what is being fetched; raise "
                    "--stage-limit."
                )
            os.ftruncate(descriptor, info.num_bytes)

    def _staged(self) -> Iterator[tuple[float, int, Path]]:
        """Yield when each file was last used, its size and path; those under way with the size they will have."""
        # A shard of features is named c/N/0/0; a chunk of a column, which stays, c/N.
        for path in self._root.glob("features/*/*/[!.]*/*/c/*/**/*"):
            with suppress(FileNotFoundError):
                found = path.stat()
                if path.is_file():
                    yield found.st_mtime, found.st_size, path


@contextmanager
def _own_disk(path: Path) -> Iterator[None]:
    """Tell a fault of the stage's disk, such as a full one, from a shard that is missing or damaged."""
    try:
        yield
    except OSError as error:
        way_out = "make room, lower --stage-limit, or name another folder with --stage"
        if error.errno in _TOO_MANY:
            way_out = "raise the limit on open files (ulimit -n)"
        raise StalError(
            f"'{path}' could not be staged: {error.strerror or error}. The bucket's shard is not at fault; {way_out}."
        ) from error


def _write_all(descriptor: int, content: memoryview, start: int) -> None:
    """Write all of it: a disk that is nearly full takes a part first, and says so only at the next write."""
    while content:
        written = os.pwrite(descriptor, content, start)
        content, start = content[written:], start + written
