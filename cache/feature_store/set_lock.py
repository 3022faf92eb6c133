"""Who uses a feature set now, so that nobody deletes it meanwhile.

Every open `FeatureSet` and `FeatureWriter` holds a shared lock of the kernel (`flock`) on a file beside the set; who
deletes a set takes it exclusively. A process that dies holds nothing. Runs whose head is loaded are marked likewise.
"""

import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

from stal_data.errors import ConflictError
from stal_data.file_lock import FileLock

_LOOK_S = 1.0
"""Longer than prune takes to look whether a set is in use, for which it holds the lock for a moment."""


def locks_folder(set_folder: Path) -> Path:
    """Return the folder of a set's lock files; it is beside the set, so that it stays when the set goes."""
    return set_folder.parent / ".locks" / set_folder.name


def mark_in_use(owner: object, set_folder: Path) -> None:
    """Keep the set from being deleted as long as `owner` lives; see `in_use`."""
    if (lock := _share(set_folder)) is not None:
        weakref.finalize(owner, lock.release)


@contextmanager
def in_use(set_folder: Path) -> Iterator[None]:
    """Keep the set from being deleted; it need not exist yet.

    Where the folder cannot be written or has no locks, nothing is marked; there deleting needs a lock, too, and fails.
    """
    with _share(set_folder) or nullcontext():
        yield


@contextmanager
def sole_use(set_folder: Path) -> Iterator[None]:
    """Hold the set for deleting; an error while anything uses it."""
    lock = FileLock.take(_file(set_folder))
    if lock is None:
        raise ConflictError(f"'{set_folder}' is in use by a running job, service or precompute; end that first.")
    with lock:
        yield


def _share(set_folder: Path) -> FileLock | None:
    until = time.monotonic() + _LOOK_S
    with suppress(OSError):  # a folder that this user cannot write
        while (lock := FileLock.take(_file(set_folder), shared=True, required=False)) is None:
            if time.monotonic() > until:
                raise ConflictError(f"'{set_folder}' is being deleted.")
            time.sleep(0.005)
        return lock
    return None


def _file(set_folder: Path) -> Path:
    return locks_folder(set_folder) / "use.lock"
