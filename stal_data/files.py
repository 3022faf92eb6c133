"""Writing files so that a reader, or a crash, never meets half of one."""

import fcntl
import glob
import os
import re
import socket
import uuid
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

_HIDDEN_BYTES = 100
"""Of the file's own name in that of its partial file, which has a host, a process and a random number besides."""
_END = re.compile(r"\.(\d{1,9})\.[0-9a-f]{32}\.partial")


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

    The folder is created when missing. What killed writers of the same path left there goes first.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_left(path)
    partial = temporary_name(path)
    # Not by tempfile, whose files are their owner's alone, whatever the umask says.
    with naming(path):
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        with suppress(OSError):  # without locks on this file system nobody takes it for left behind either
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield partial
    finally:
        partial.unlink(missing_ok=True)
        os.close(descriptor)


def temporary_name(path: Path) -> Path:
    """A hidden name in the same folder that no other process or machine picks."""
    return path.with_name(f"{_begin(path)}{os.getpid()}.{uuid.uuid4().hex}.partial")


@contextmanager
def naming(path: Path | str) -> Iterator[None]:
    """Let an error of the system that names no file, as those of writing do, name this one."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise


def _begin(path: Path) -> str:
    name = os.fsencode(path.name)[:_HIDDEN_BYTES].decode(errors="ignore")
    return f".{name}.{socket.gethostname()[:40]}."


def _remove_left(path: Path) -> None:
    """Remove partial files of this path whose process on this machine has ended."""
    begin = _begin(path)
    for left in path.parent.glob(f"{glob.escape(begin)}*.partial"):
        end = _END.fullmatch(left.name[len(begin) - 1 :])
        if end is None or _runs(int(end[1])):
            continue
        # A process of another container may have the same number and host name; it holds the lock.
        with suppress(OSError):
            descriptor = os.open(left, os.O_WRONLY | os.O_CLOEXEC)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                left.unlink()
            finally:
                os.close(descriptor)


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # no right to send it a signal
        return True
    return True
