"""What a killed process left: it is known by a lock that nobody holds any more."""

import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from stal_data.file_lock import FileLock, NoFileLocksError


def remove_if_left(path: Path, lock: Path | None = None, *, first: Callable[[], object] = lambda: None) -> bool:
    """Remove a file, or a folder by the lock file in it, unless somebody holds the lock; whether it was removed.

    first: called under the lock, before anything is removed.
    """
    with suppress(OSError, NoFileLocksError):  # gone already, or another user's
        held = FileLock.take(lock or path, make=False)
        if held is None:
            return False
        with held:
            first()
            if lock is None:
                path.unlink()  # who waits for the lock then finds the name gone
        if lock is not None:  # closed first: NFS keeps a file that is open, and so its folder
            shutil.rmtree(path, ignore_errors=True)
        return True
    return False
