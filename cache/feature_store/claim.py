"""One writer per shard. Two writers of one shard would lose rows without any error."""

import json
import os
import socket
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from cache.files import explaining_full_disk
from stal_data.file_lock import FileLock

if TYPE_CHECKING:
    from cache.object_store.claims import Lease


class ShardClaim:
    """The right to write one shard, held from `take` to the end of the `with` block.

    It is a lock of the kernel (`flock`) on a file next to the set, so the claim of a process that died is free at
    once; the file's text (process id and host) only serves messages. A file system without locks is refused.

    lease: where the store is in a bucket, the claim among all machines; the lock is then that among this machine's
        processes.
    """

    def __init__(self, shard: int, lock: FileLock) -> None:
        self.shard = shard
        self.lease: Lease | None = None
        self._lock = lock

    @classmethod
    def take(cls, folder: Path, shard: int) -> Self | None:
        """Return the claim on a shard, or None while another process or thread holds it."""
        path = _path(folder, shard)
        with explaining_full_disk(path):
            lock = FileLock.take(path)
        if lock is None:
            return None
        with suppress(OSError):  # a full disk: the lock holds without the text
            os.ftruncate(lock.descriptor, 0)
            os.pwrite(lock.descriptor, json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode(), 0)
        return cls(shard, lock)

    @property
    def held(self) -> bool:
        return self._lock.held

    def release(self) -> None:
        if self.lease is not None:
            self.lease.release()
            self.lease = None
        self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.release()


def describe_owner(folder: Path, shard: int) -> str:
    """Return `process 12 on host h` of the last writer of a shard."""
    try:
        owner = json.loads(_path(folder, shard).read_text())
        return f"process {owner['pid']} on host {owner['host']}"
    except (OSError, ValueError, KeyError):
        return "another process"


def _path(folder: Path, shard: int) -> Path:
    return folder / f"shard-{shard:06d}.lock"
