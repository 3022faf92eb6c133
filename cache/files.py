"""Files that survive a power cut: a reader sees the old content or the new one, never a part."""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from stal_data.errors import StalError
from stal_data.file_lock import FileLock
from stal_data.files import partial_file

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def sync(path: Path) -> None:
    """Make the content of a closed file durable, or the names in a folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(root: Path) -> None:
    """Make every file and folder under `root` durable, children before parents."""
    for folder, _, names in os.walk(root, topdown=False):
        for name in names:
            sync(Path(folder, name))
        sync(Path(folder))


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock of the kernel on a file, which is made and stays, among all threads and processes; waits for it."""
    with explaining_full_disk(path):
        lock = FileLock.take(path, wait=True)
    assert lock is not None
    with lock:
        yield


@contextmanager
def replacing(path: Path, *, durable: bool = True) -> Iterator[Path]:
    """Yield a temporary path; when the block succeeds, its file replaces `path` at once.

    durable: also after a power cut, which costs the disk a while.
    """
    with explaining_full_disk(path), partial_file(path) as partial:
        yield partial
        if durable:
            sync(partial)
        partial.replace(path)
        if durable:
            sync(path.parent)


@contextmanager
def explaining_full_disk(path: Path) -> Iterator[None]:
    """Turn the system's error for a full disk, quota or file-size limit into one that says what to do.

    path: what is written; where that is a folder, the file in it that the error names is told.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        existing = next(folder for folder in path.absolute().parents if folder.exists())
        free = shutil.disk_usage(existing).free
        named = error.filename if path.is_dir() and error.filename is not None else path
        raise StalError(
            f"'{named}' could not be written: {os.strerror(error.errno)} ({free / 1e6:.0f} MB free). What was finished "
            "before is safe; make room and run the same command again, it resumes."
        ) from error
