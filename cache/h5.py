"""What the project's HDF5 files have in common: a checksum, a format attribute, key-frame columns, readable errors.

The checksum (`stal_data.sealed`) lies in a block of 512 bytes before the HDF5 file proper, which HDF5 skips. It is
checked before HDF5 sees a byte: on blocks of zeros its parser may never end.
"""

import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import h5py

from cache.files import replacing
from cache.h5_target import Target
from stal_data.children import python_command, python_environment
from stal_data.errors import InputError, NotFoundError
from stal_data.keyframes import KeyFrame
from stal_data.owner import owned
from stal_data.sealed import UNSEALED, check_seal, seal_file

_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_BLOCK = f"{UNSEALED}\nof this file while the digits above are zeros; HDF5 from byte 512\n".encode().ljust(512, b"\0")
_OLD_FILE_S = 120
_OLD_FILE_BYTES_A_S = 10_000_000  # generous, like the seconds: a parser that has not ended by then never will


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A kind of file and the version that is written; 1 is read, too.

    Version 1 has whole seconds, see `read_keys`. way_out: how to get a good file in place of a damaged one.
    """

    name: str
    version: int
    way_out: str


@contextmanager
def reading(path: Path, kind: Kind) -> Iterator[h5py.File]:
    """Open `path` and check that it is a file of this kind and version; bad content is an error that names the file.

    The block does nothing but read it: any `OSError` there is taken for the file's. Where it does more, see `opened`.
    """
    with opened(path, kind) as file, complete(path, kind):
        yield file


@contextmanager
def opened(path: Path, kind: Kind, *, old: bool = False) -> Iterator[h5py.File]:
    """As `reading`, but the block's errors stay what they are; what it reads of the file goes in `complete`.

    old: also take a file without a checksum, as earlier versions wrote them, if it reads from end to end.
    """
    if not path.is_file():
        raise NotFoundError(f"There is no {kind.name} file '{path}'.")
    with complete(path, kind):
        content = path.open("rb")
    with content:
        with complete(path, kind):
            is_sealed = check_seal(content, str(path), kind.way_out)
            is_hdf5 = content.read(len(_SIGNATURE)) == _SIGNATURE
        if not (is_sealed or (is_hdf5 and old)):
            raise _unsealed(path, kind, is_hdf5=is_hdf5)
        if not is_sealed:
            _read_in_child(path, kind)
        content.seek(0)
        with complete(path, kind):
            file = h5py.File(content, "r")
        with file:
            with complete(path, kind):
                found = (file.attrs.get("format"), int(file.attrs.get("version", 0)))
            if found[0] != f"stal-{kind.name}" or not 1 <= found[1] <= kind.version:
                raise InputError(
                    f"'{path}' is {found[0]} version {found[1]}, not stal-{kind.name} version {kind.version}."
                )
            yield file


@contextmanager
def complete(path: Path, kind: Kind) -> Iterator[None]:
    """Turn what h5py says of a file that lacks something, or cannot be read, into an error that names it."""
    try:
        yield
    except (OSError, KeyError) as error:
        if isinstance(error, OSError) and error.errno:  # of the system; HDF5's own have none
            raise InputError(f"'{path}' cannot be read: {os.strerror(error.errno)}.") from error
        raise InputError(f"'{path}' is not a complete {kind.name} file: {error}. {kind.way_out}") from error


class NewFile(h5py.File):  # type: ignore[misc]
    """A file being written. A failed write shows at its end, or at a call of `check`."""

    def __init__(self, target: Target) -> None:
        super().__init__(target, "w", userblock_size=len(_BLOCK))
        self.check = target.check


@contextmanager
def creating(path: Path, kind: Kind) -> Iterator[NewFile]:
    """Write `path`; an `OSError` where it does not fit the disk. Who writes many rows calls `file.check` in between."""
    target = Target(path)
    try:
        with NewFile(target) as file:
            file.attrs["format"] = f"stal-{kind.name}"
            file.attrs["version"] = kind.version
            yield file
        target.seek(0)
        target.write(memoryview(_BLOCK))
        target.check()
    finally:
        target.close()
    seal_file(path)


def is_old(path: Path) -> bool:
    """Whether this is an HDF5 file without a checksum, as earlier versions wrote them."""
    with path.open("rb") as file:
        return file.read(len(_SIGNATURE)) == _SIGNATURE


def add_checksum(path: Path, kind: Kind) -> None:
    """Give an old file its checksum, if it reads from end to end."""
    _read_in_child(path, kind)
    with replacing(path) as partial:
        partial.write_bytes(_BLOCK + path.read_bytes())
        seal_file(partial)


def _read_in_child(path: Path, kind: Kind) -> None:
    """Read a file of unknown content from end to end in a process that can be ended; InputError if it does not read."""
    limit_s = _OLD_FILE_S + path.stat().st_size // _OLD_FILE_BYTES_A_S
    command = python_command("cache.h5_read_all", str(path), str(limit_s + 1))
    try:
        subprocess.run(command, check=True, timeout=limit_s, capture_output=True, env=owned(python_environment()))
    except subprocess.TimeoutExpired:
        raise InputError(f"'{path}' is damaged: HDF5 did not end reading it. {kind.way_out}") from None
    except subprocess.CalledProcessError as error:
        reason = error.stderr.decode(errors="replace").strip().rpartition("\n")[2] or "HDF5 crashed reading it"
        raise InputError(f"'{path}' is damaged: {reason}. {kind.way_out}") from None


def dataset(file: h5py.Group, name: str) -> h5py.Dataset:
    """Return a dataset that lies in the file itself, not behind a link or in other files; KeyError else."""
    link, found = file.get(name, getlink=True), None
    if isinstance(link, h5py.HardLink):
        found = file[name]
    if not isinstance(found, h5py.Dataset) or found.is_virtual or found.external:
        raise KeyError(f"it lacks the dataset '{name}'")
    return found


def write_keys(group: h5py.Group, keys: Sequence[KeyFrame]) -> None:
    """Store key frames as the columns `video` (UTF-8) and `time_ms` (milliseconds)."""
    group.create_dataset("video", data=[key.video for key in keys], dtype=h5py.string_dtype(), shape=(len(keys),))
    group.create_dataset("time_ms", data=[key.time_ms for key in keys], dtype="i8", shape=(len(keys),))


def read_keys(file: h5py.File, name: str) -> tuple[KeyFrame, ...]:
    """Return the key frames of the group `name`; a file of version 1 has whole seconds, as `timestamp`."""
    if not isinstance(file.get(name, getlink=True), h5py.HardLink):
        raise KeyError(f"it lacks the group '{name}'")
    column, unit_ms = ("timestamp", 1000) if int(file.attrs["version"]) == 1 else ("time_ms", 1)
    videos, times = dataset(file[name], "video"), dataset(file[name], column)
    return tuple(KeyFrame(str(v), int(t) * unit_ms) for v, t in zip(videos.asstr()[:], times[:], strict=True))


def _unsealed(path: Path, kind: Kind, *, is_hdf5: bool) -> InputError:
    if is_hdf5:
        return InputError(
            f"'{path}' carries no checksum: an earlier version wrote it. 'stal-cli cache verify STORE --repair' reads "
            f"it once more and adds one. {kind.way_out}"
        )
    return InputError(
        f"'{path}' is damaged or no {kind.name} file: it does not begin with its checksum. {kind.way_out}"
    )
