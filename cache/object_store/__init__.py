"""A store in an S3 bucket: the bucket holds everything, a local folder mirrors what is in use.

How and why: docs/object-stores.md. Importing this is cheap; the rest needs the extra `s3`.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from cache.object_store.marker import MARKER

if TYPE_CHECKING:
    from cache.object_store.mirror import Mirror


def mirror_of_set(folder: Path) -> "Mirror | None":
    """Return the mirror that a feature set's folder lies in; None where the folder is all there is."""
    parents = folder.absolute().parents
    return mirror_at(parents[3]) if len(parents) > 3 else None


def mirror_at(root: Path) -> "Mirror | None":
    """Return the mirror in a folder; None where the folder is a store of its own."""
    if not (root / MARKER).is_file():
        return None
    from cache.object_store.mirror import Mirror

    return Mirror.at(root)
