"""Read an HDF5 file from end to end: `python -m cache.h5_read_all FILE`, in a process that can be ended."""

import sys

import h5py


def main() -> None:
    with h5py.File(sys.argv[1], "r") as file:
        file.visititems(lambda _, item: item[()] if isinstance(item, h5py.Dataset) else None)


if __name__ == "__main__":
    main()
