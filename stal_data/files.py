"""Writing files so that a reader, or a crash, never meets half of one."""

import os
import re
import socket
import uuid
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from stal_data.file_lock import FileLock
from stal_data.left_behind import remove_if_left

_HIDDEN_BYTES = 100
"""Of the file's own name in that of its partial file, which has a host, a process and a random number besides."""
_swept: set[tuple[int, Path]] = set()
"""Process, and folder in which it has removed what killed writers left."""


def write_atomically(path: Path, content: bytes | str) -> None:
    """Replace `path` by `content` (text as UTF-8) in one step; the folder is created when missing."""
    write_together({path: content})


def write_together(contents: Mapping[Path, bytes | str]) -> None:
    """As `write_atomically`, for files that belong together: none is replaced before all have found room."""
    with ExitStack() as stack:
        partials = {path: stack.enter_context(partial_file(path)) for path in contents}
        for path, content in contents.items():
            with naming(path), partials[path].open("wb") as file:
                file.write(content.encode() if isinstance(content, str) else content)
                file.flush()
                os.fsync(file.fileno())
        for path, partial in partials.items():
            with naming(path):
                partial.replace(path)


@contextmanager
def partial_file(path: Path) -> Iterator[Path]:
    """Yield a new hidden file beside `path`, which is gone after the block unless it was renamed.

    The folder is created when missing. Before its first file there, a process removes what killed writers left.
    Errors of the system that name the hidden file name `path` instead.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_left(path.parent.absolute())
    partial = temporary_name(path)
    try:
        # Without locks on this file system nobody takes it for left behind either.
        lock = FileLock.take(partial, wait=True, required=False)
        assert lock is not None
        with lock:
            try:
                yield partial
            finally:
                partial.unlink(missing_ok=True)
    except OSError as error:
        if str(error.filename) == str(partial):
            error.filename = str(path)
            del error.filename2  # of a rename, the same once more
        raise


def temporary_name(path: Path) -> Path:
    """A hidden name in the same folder that no other process or machine picks."""
    name = os.fsencode(path.name)[:_HIDDEN_BYTES].decode(errors="ignore")
    return path.with_name(f".{name}.{_host()}.{os.getpid()}.{uuid.uuid4().hex}.partial")


@contextmanager
def naming(path: Path | str) -> Iterator[None]:
    """Let an error of the system that names no file, as those of writing do, name this one."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise


def _host() -> str:
    return socket.gethostname()[:40]


def _remove_left(folder: Path) -> None:
    """Remove partial files whose process on this machine has ended; once, since many may be written to one folder."""
    if (os.getpid(), folder) in _swept:
        return
    _swept.add((os.getpid(), folder))
    name = re.compile(rf"\..*\.{re.escape(_host())}\.(\d{{1,9}})\.[0-9a-f]{{32}}\.partial")
    for left in folder.iterdir():
        match = name.fullmatch(left.name)
        # A process of another container may have the same number and host name; it holds the lock.
        if match is not None and not _runs(int(match[1])):
            remove_if_left(left)


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # no right to send it a signal
        return True
    return True
