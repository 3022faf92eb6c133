"""A hidden folder in which something large is made; what killed processes left of theirs is found and removed."""

import fcntl
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_SUFFIX = ".unfinished"
_LOCK = ".stal-work.lock"
"""Held by the process that works in the folder; also the mark by which a folder is known as one of these."""


@contextmanager
def work_folder(target: Path) -> Iterator[Path]:
    """Yield a new folder on the file system of `target`, which is gone after the block unless it was renamed.

    The folder of `target` is made when missing. Folders there whose process was killed go first.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    for left in target.parent.glob(f".*{_SUFFIX}"):
        _remove_if_left(left)
    unlocked = target.parent / f".{target.name[:40]}.{uuid.uuid4().hex}.new"
    unlocked.mkdir()
    folder = unlocked.with_suffix(_SUFFIX)
    descriptor = os.open(unlocked / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        with suppress(OSError):  # without locks on this file system nobody takes it for left behind either
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        unlocked.rename(folder)
        content = folder / "content"
        content.mkdir()
        yield content
    finally:
        for path in (unlocked, folder):
            shutil.rmtree(path, ignore_errors=True)
        os.close(descriptor)


def _remove_if_left(folder: Path) -> None:
    with suppress(OSError):
        descriptor = os.open(folder / _LOCK, os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
        finally:
            os.close(descriptor)
