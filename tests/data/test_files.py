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


def test_errors_name_the_file_and_not_the_hidden_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "folder" / "below").mkdir(parents=True)
    with pytest.raises(IsADirectoryError) as taken:
        write_atomically(tmp_path / "folder", "text")
    assert str(taken.value) == f"[Errno 21] Is a directory: '{tmp_path / 'folder'}'"
    real = os.open

    def refuse(name: str | Path, *words: int, **options: int) -> int:
        if Path(name).name.endswith(".partial"):
            raise PermissionError(13, "Permission denied", str(name))
        return real(name, *words, **options)

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(PermissionError) as refused:
        write_atomically(tmp_path / "file", "text")
    assert refused.value.filename == str(tmp_path / "file")


def test_a_folder_is_not_listed_for_each_file_that_is_written_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = []
    for name in ("listdir", "scandir"):
        real = getattr(os, name)
        monkeypatch.setattr(os, name, lambda folder, real=real: listed.append(folder) or real(folder))
    for number in range(10):
        write_atomically(tmp_path / str(number), "text")
    assert len(listed) == 1
