"""What the project's HDF5 files have in common: a format attribute, key-frame columns, readable errors."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import h5py

from cache.h5_target import Target
from stal_data.errors import InputError, NotFoundError
from stal_data.keyframes import KeyFrame


@contextmanager
def reading(path: Path, *, kind: str, version: int) -> Iterator[h5py.File]:
    """Open `path` and check that it is a file of this kind and version; bad content is an error that names the file.

    The block does nothing but read it: any `OSError` there is taken for the file's. Where it does more, see `opened`.
    """
    with opened(path, kind=kind, version=version) as file, complete(path, kind=kind):
        yield file


@contextmanager
def opened(path: Path, *, kind: str, version: int) -> Iterator[h5py.File]:
    """As `reading`, but the block's errors stay what they are; what it reads of the file goes in `complete`."""
    if not path.is_file():
        raise NotFoundError(f"There is no {kind} file '{path}'.")
    with complete(path, kind=kind):
        file = h5py.File(path, "r")
    with file:
        with complete(path, kind=kind):
            found = (file.attrs.get("format"), int(file.attrs.get("version", 0)))
        if found != (f"stal-{kind}", version):
            raise InputError(f"'{path}' is {found[0]} version {found[1]}, not stal-{kind} version {version}.")
        yield file


@contextmanager
def complete(path: Path, *, kind: str) -> Iterator[None]:
    """Turn what h5py says of a file that lacks something, or cannot be read, into an error that names it."""
    try:
        yield
    except (OSError, KeyError) as error:
        if isinstance(error, OSError) and error.errno:  # of the system; HDF5's own have none
            raise InputError(f"'{path}' cannot be read: {os.strerror(error.errno)}.") from error
        raise InputError(f"'{path}' is not a complete {kind} file: {error}. Write it again.") from error


class NewFile(h5py.File):  # type: ignore[misc]
    """A file being written. A failed write shows at its end, or at a call of `check`."""

    def __init__(self, target: Target) -> None:
        super().__init__(target, "w")
        self.check = target.check


@contextmanager
def creating(path: Path, *, kind: str, version: int) -> Iterator[NewFile]:
    """Write `path`; an `OSError` where it does not fit the disk. Who writes many rows calls `file.check` in between."""
    target = Target(path)
    try:
        with NewFile(target) as file:
            file.attrs["format"] = f"stal-{kind}"
            file.attrs["version"] = version
            yield file
        target.check()
    finally:
        target.close()


def write_keys(group: h5py.Group, keys: Sequence[KeyFrame]) -> None:
    """Store key frames as the columns `video` (UTF-8) and `timestamp` (whole seconds)."""
    group.create_dataset("video", data=[key.video for key in keys], dtype=h5py.string_dtype(), shape=(len(keys),))
    group.create_dataset("timestamp", data=[key.timestamp for key in keys], dtype="i8", shape=(len(keys),))


def read_keys(group: h5py.Group) -> tuple[KeyFrame, ...]:
    videos = group["video"].asstr()[:]
    return tuple(KeyFrame(str(v), int(t)) for v, t in zip(videos, group["timestamp"][:], strict=True))
