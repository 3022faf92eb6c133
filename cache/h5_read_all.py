"""Read an HDF5 file from end to end: `python -m cache.h5_read_all FILE SECONDS`, in a process that can be ended."""

import resource
import sys

import h5py

from stal_data.owner import end_with_owner


def main() -> None:
    end_with_owner()
    path, seconds = sys.argv[1], int(sys.argv[2])
    # A parser that does not end lets no thread of Python run: so this, too, ends it when the owner was killed.
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    with h5py.File(path, "r") as file:
        file.visititems(_read)


def _read(_name: str, item: object) -> None:
    """Read in pieces: the file may be larger than the memory."""
    if isinstance(item, h5py.Dataset):
        for piece in item.iter_chunks() if item.chunks else [()]:
            item[piece]


if __name__ == "__main__":
    main()
