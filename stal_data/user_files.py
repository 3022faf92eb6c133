"""Files that somebody else made: regular files of a bounded size, so that reading one always ends."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, TextIO

from stal_data.errors import InputError

MAX_LINE_CHARACTERS = 1 << 20
_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def check_regular(path: Path) -> None:
    """Refuse what a library would wait for, or read without end: InputError. A path that is not there is no error."""
    if path.exists():
        _check_kind(path, path.stat())


def open_regular(path: Path) -> BinaryIO:
    """Open a file for reading; a folder, a pipe or a device is an InputError, at once."""
    # Opening a pipe waits for its writer without O_NONBLOCK, which regular files do not heed.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        _check_kind(path, os.fstat(descriptor))
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read_bounded(path: Path, max_bytes: int) -> bytes:
    """Return the content of a regular file; a larger one is an InputError, and no more than that is ever read."""
    with open_regular(path) as file:
        too_large = os.fstat(file.fileno()).st_size > max_bytes
        content = b"" if too_large else file.read(max_bytes + 1)
    if too_large or len(content) > max_bytes:
        raise InputError(f"'{path}' has more than {max_bytes} bytes, the most that such a file may have.")
    return content


def read_text_bounded(path: Path, max_bytes: int) -> str:
    """`read_bounded` as UTF-8 text, with or without a byte order mark."""
    try:
        return read_bounded(path, max_bytes).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"'{path}' is not UTF-8 text: {error.reason} at byte {error.start}.") from None


def bounded_lines(file: TextIO, path: Path) -> Iterator[str]:
    """Yield the lines of an open file; one that has no end, as in a file of zeros, is an InputError."""
    number = 0
    while line := file.readline(MAX_LINE_CHARACTERS + 1):
        number += 1
        if len(line) > MAX_LINE_CHARACTERS:
            raise InputError(f"{path}, line {number} has more than {MAX_LINE_CHARACTERS} characters: is it text?")
        yield line


def _check_kind(path: Path, found: os.stat_result) -> None:
    for is_kind, kind in _KINDS:
        if is_kind(found.st_mode):
            raise InputError(f"'{path}' is {kind}, but must be a regular file.")
