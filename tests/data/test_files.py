"""Files that are written in one step."""

import os
from pathlib import Path

import pytest

from stal_data.files import write_atomically


@pytest.mark.parametrize("umask", [0o002, 0o022, 0o077])
def test_modes_are_those_of_the_umask(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        write_atomically(tmp_path / "below" / "file", "text")
    finally:
        os.umask(before)
    assert (tmp_path / "below").stat().st_mode & 0o777 == 0o777 & ~umask
    assert (tmp_path / "below" / "file").stat().st_mode & 0o777 == 0o666 & ~umask
    assert [path.name for path in (tmp_path / "below").iterdir()] == ["file"]
