"""A hidden folder in which something large is made; what killed processes left of theirs is found and removed."""

import shutil
import socket
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from glob import escape
from pathlib import Path

from stal_data.file_lock import FileLock
from stal_data.left_behind import remove_if_left

_LOCK = ".stal-work.lock"
"""Held by the process that works in the folder; also the mark by which a folder is known as one of these."""
_CONTENT = "content"


@contextmanager
def work_folder(
    target: Path, *, suffix: str = ".unfinished", rescue: Callable[[Path, str], object] = lambda _content, _name: None
) -> Iterator[Path]:
    """Yield a new folder on the file system of `target`, which is gone after the block unless it was renamed.

    The folder of `target` is made when missing. Those of the same suffix there whose process on this machine was killed
    go first; another machine's stay, as its locks may not be seen here.
    rescue: told the content of each before, and the name of what was made there; it moves out what is to stay.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    host = socket.gethostname()[:40]
    for left in target.parent.glob(f".*.{escape(host)}.*{suffix}"):

        def clear(left: Path = left) -> None:
            rescue(left / _CONTENT, left.name[1:].rpartition(f".{host}.")[0])
            shutil.rmtree(left / _CONTENT, ignore_errors=True)

        remove_if_left(left, left / _LOCK, first=clear)
    unlocked = target.parent / f".{target.name[:40]}.{host}.{uuid.uuid4().hex}.new"
    unlocked.mkdir()
    folder = unlocked.with_suffix(suffix)
    # Without locks on this file system nobody takes it for left behind either.
    lock = FileLock.take(unlocked / _LOCK, required=False)
    assert lock is not None  # nobody else knows the file yet
    try:
        unlocked.rename(folder)
        content = folder / _CONTENT
        content.mkdir()
        yield content
    finally:
        for path in (unlocked, folder):
            shutil.rmtree(path, ignore_errors=True)
        lock.release()
