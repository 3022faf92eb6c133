"""The digest that names a file by its content."""

import hashlib
from collections.abc import Callable
from pathlib import Path

_BLOCK_BYTES = 1 << 20


def sha256_of(path: Path, progress: Callable[[int, int], None] | None = None) -> str:
    """Return the sha256 (hex) of a file's bytes. progress: told how many bytes are read, of how many."""
    digest, total = hashlib.sha256(), path.stat().st_size
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
            if progress is not None:
                progress(file.tell(), total)
    return digest.hexdigest()
