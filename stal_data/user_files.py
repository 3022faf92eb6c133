"""Files that somebody else made: regular files of a bounded size, so that reading one always ends."""

import os
import stat
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path
from typing import TextIO

from stal_data.errors import InputError, shown
from stal_data.sealed import check_seal

MAX_LINE_CHARACTERS = 1 << 20
_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def open_regular(path: Path) -> BufferedReader:
    """Open a file for reading; a folder, a pipe or a device is an InputError, at once."""
    # Opening a pipe waits for its writer without O_NONBLOCK, which regular files do not heed.
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except ValueError:  # a NUL, half of a character
        raise InputError(f"{shown(str(path))} cannot be a path.") from None
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
    """`read_bounded` as UTF-8 text, with or without a byte order mark; the checksum of a file of a run is verified."""
    content = read_bounded(path, max_bytes)
    check_seal(content, str(path), "Restore it from a copy; or, if you changed it yourself, delete its first line.")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"'{path}' is not UTF-8 text: {error.reason} at byte {error.start}.") from None


class BoundedLines:
    """Iterates over the lines of an open file; one without end, as in a file of zeros, is an InputError."""

    def __init__(self, file: TextIO, path: Path) -> None:
        self._file, self._path, self._number = file, path, 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._file.readline(MAX_LINE_CHARACTERS + 1)
        self._number += 1
        if len(line) > MAX_LINE_CHARACTERS:
            raise InputError(
                f"{self._path}, line {self._number} has more than {MAX_LINE_CHARACTERS} characters: is it text?"
            )
        if not line:
            raise StopIteration
        return line


def _check_kind(path: Path, found: os.stat_result) -> None:
    for is_kind, kind in _KINDS:
        if is_kind(found.st_mode):
            raise InputError(f"'{path}' is {kind}, but must be a regular file.")
