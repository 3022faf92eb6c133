"""Who uses a feature set now, so that nobody deletes it meanwhile.

Every open `FeatureSet` and `FeatureWriter` holds a shared lock of the kernel (`flock`) on a file beside the set; who
deletes a set takes it exclusively. A process that dies holds nothing.
"""

import fcntl
import os
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from stal_data.errors import ConflictError

_LOOK_S = 1.0
"""Longer than prune takes to look whether a set is in use, for which it holds the lock for a moment."""


def locks_folder(set_folder: Path) -> Path:
    """Return the folder of a set's lock files; it is beside the set, so that it stays when the set goes."""
    return set_folder.parent / ".locks" / set_folder.name


def mark_in_use(owner: object, set_folder: Path) -> None:
    """Keep the set from being deleted as long as `owner` lives; see `in_use`."""
    descriptor = _share(set_folder)
    if descriptor is not None:
        weakref.finalize(owner, os.close, descriptor)


@contextmanager
def in_use(set_folder: Path) -> Iterator[None]:
    """Keep the set from being deleted; it need not exist yet.

    Where the folder cannot be written or has no locks, nothing is marked; there deleting needs a lock, too, and fails.
    """
    descriptor = _share(set_folder)
    try:
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)


@contextmanager
def sole_use(set_folder: Path) -> Iterator[None]:
    """Hold the set for deleting; an error while anything uses it."""
    descriptor = _open(set_folder)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConflictError(
                f"The feature set '{set_folder}' is in use by a running job, service or precompute; end that first."
            ) from None
        except OSError as error:
            raise no_locks(set_folder, error) from error
        yield
    finally:
        os.close(descriptor)


def no_locks(path: Path, error: OSError) -> ConflictError:
    """The error where a file system refuses `flock` itself."""
    return ConflictError(
        f"The file system of '{path}' has no file locks ({error.strerror or error}), without which two writers of one "
        "shard would lose rows; mount it with locks (NFS 4, Lustre with -o flock), or write to another folder and copy."
    )


def _share(set_folder: Path) -> int | None:
    try:
        descriptor = _open(set_folder)
    except OSError:
        return None
    until = time.monotonic() + _LOOK_S
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > until:
                os.close(descriptor)
                raise ConflictError(f"The feature set '{set_folder}' is being deleted.") from None
            time.sleep(0.005)
        except OSError:
            os.close(descriptor)
            return None
        else:
            return descriptor


def _open(set_folder: Path) -> int:
    folder = locks_folder(set_folder)
    folder.mkdir(parents=True, exist_ok=True)
    return os.open(folder / "use.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
