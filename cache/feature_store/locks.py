"""One writer per shard. Two writers of one shard would lose rows without any error."""

import fcntl
import json
import os
import socket
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from cache.feature_store.set_lock import no_locks
from cache.files import explaining_full_disk

if TYPE_CHECKING:
    from cache.object_store.claims import Lease


class ShardClaim:
    """The right to write one shard, held from `take` to the end of the `with` block.

    It is a lock of the kernel (`flock`) on a file next to the set, so the claim of a process that died is free at
    once; the file's text (process id and host) only serves messages. A file system without locks is refused.

    lease: where the store is in a bucket, the claim among all machines; the lock is then that among this machine's
        processes.
    """

    def __init__(self, shard: int, descriptor: int) -> None:
        self.shard = shard
        self.lease: Lease | None = None
        self._descriptor = descriptor

    @classmethod
    def take(cls, folder: Path, shard: int) -> Self | None:
        """Return the claim on a shard, or None while another process or thread holds it."""
        path = _path(folder, shard)
        with explaining_full_disk(path):
            folder.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        except OSError as error:
            os.close(descriptor)
            raise no_locks(folder, error) from error
        with suppress(OSError):  # a full disk: the lock holds without the text
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode(), 0)
        return cls(shard, descriptor)

    @property
    def held(self) -> bool:
        return self._descriptor >= 0

    def release(self) -> None:
        if self.lease is not None:
            self.lease.release()
            self.lease = None
        if self.held:
            os.close(self._descriptor)
            self._descriptor = -1

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
