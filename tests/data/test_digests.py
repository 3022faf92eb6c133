"""The digest of a file, and what its reader is told meanwhile."""

import hashlib
from pathlib import Path

import pytest

from stal_data.digests import sha256_of


@pytest.mark.parametrize("size", [0, 5, (1 << 20) + 5])
def test_the_digest_is_that_of_all_bytes(size: int, tmp_path: Path) -> None:
    content = bytes(range(256)) * (size // 256 + 1)
    (tmp_path / "file").write_bytes(content[:size])
    told: list[tuple[int, int]] = []
    digest = sha256_of(tmp_path / "file", lambda done, total: told.append((done, total)))
    assert digest == sha256_of(tmp_path / "file") == hashlib.sha256(content[:size]).hexdigest()
    assert told == [(done, size) for done in (1 << 20, size) if done <= size and size]
