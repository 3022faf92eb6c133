"""Hidden folders beside a set in which shards are written before they are sent to a bucket; one for each writer."""

import fcntl
import os
import shutil
import socket
import weakref
from pathlib import Path

from cache.feature_store.set_lock import no_locks
from cache.files import explaining_full_disk
from stal_data.files import temporary_name
from stal_data.left_behind import remove_if_left

_SUFFIX = ".scratch"
_LOCK = "writer.lock"
"""A file, since locks on a folder of NFS hold on one machine only."""


def new_scratch(path: Path, owner: object) -> Path:
    """Return a new folder beside the set in folder `path`. It goes with `owner`; those of killed processes go now."""
    # Another machine may share the folder, and its processes' locks may not be seen here.
    for left in path.parent.glob(f".{path.name}.{socket.gethostname()}.[0-9]*{_SUFFIX}"):
        if not remove_if_left(left, left / _LOCK) and not (left / _LOCK).exists():  # who removed it was killed
            shutil.rmtree(left, ignore_errors=True)
    with explaining_full_disk(path):
        unlocked = temporary_name(path)
        unlocked.mkdir()
        try:
            descriptor = os.open(unlocked / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError:
            unlocked.rmdir()
            raise
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        except OSError as error:
            _drop(unlocked, descriptor)
            raise no_locks(path, error) from error
        folder = unlocked.rename(unlocked.with_suffix(_SUFFIX))
    weakref.finalize(owner, _drop, folder, descriptor)
    return folder


def _drop(folder: Path, descriptor: int) -> None:
    os.close(descriptor)  # first: NFS keeps a file that is open, and so its folder
    shutil.rmtree(folder, ignore_errors=True)
