"""Data sets that a service may read: those below a folder that its operator names."""

from pathlib import Path

from stal_data.dataset import Dataset
from stal_data.errors import InputError, NotFoundError


def dataset_below(data_root: Path, folder: str) -> Dataset:
    """Open the data set in a folder below the root; a client's path never leads out of it, links followed."""
    root = data_root.resolve()
    try:
        path = (root / folder).resolve()
        path.exists()
    except (OSError, ValueError, RuntimeError):  # too long, a NUL, links in a circle
        raise InputError(f"Data set {folder[:200]!r} cannot be a path; give one relative to the data root.") from None
    if not path.is_relative_to(root):
        raise InputError(f"Data set '{folder}' is outside the service's data root; give a path relative to the root.")
    if not path.exists():
        raise NotFoundError(f"Data set '{folder}' does not exist below the service's data root.")
    return Dataset.open(path)
