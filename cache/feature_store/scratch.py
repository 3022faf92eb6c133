"""Hidden folders beside a set in which shards are written before they are sent to a bucket; one for each writer."""

import shutil
import socket
import weakref
from pathlib import Path

from cache.files import explaining_full_disk
from stal_data.errors import StalError
from stal_data.file_lock import FileLock
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
            lock = FileLock.take(unlocked / _LOCK)
        except (OSError, StalError):
            shutil.rmtree(unlocked, ignore_errors=True)
            raise
        assert lock is not None  # nobody else knows the file yet
        folder = unlocked.rename(unlocked.with_suffix(_SUFFIX))
    weakref.finalize(owner, _drop, folder, lock)
    return folder


def _drop(folder: Path, lock: FileLock) -> None:
    lock.release()  # first: NFS keeps a file that is open, and so its folder
    shutil.rmtree(folder, ignore_errors=True)
