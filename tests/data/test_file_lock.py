import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from stal_data import file_lock
from stal_data.file_lock import FileLock, NoFileLocksError


def take(path: Path, **options: bool) -> FileLock:
    lock = FileLock.take(path, **options)
    assert lock is not None
    return lock


def open_files(folder: Path) -> list[str]:
    """Those below the folder: threads of other tests open and close files meanwhile."""
    names = []
    for link in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # closed by now
            names.append(str(link.readlink()))
    return [name for name in names if name.startswith(f"{folder}/")]


def test_a_lock_excludes_others_until_it_is_released(tmp_path: Path) -> None:
    path = tmp_path / "made" / "a.lock"
    with take(path) as first:
        assert first.held
        assert open_files(tmp_path) == [str(path)]
        assert FileLock.take(path) is None
        assert FileLock.take(path, shared=True) is None
    assert not first.held
    first.release()  # once more does no harm
    with take(path):
        pass
    assert open_files(tmp_path) == []


def test_shared_locks_exclude_only_the_others(tmp_path: Path) -> None:
    path = tmp_path / "a.lock"
    with take(path, shared=True), take(path, shared=True):
        assert FileLock.take(path) is None
    with take(path):
        pass


def test_a_missing_file_is_not_made_where_it_must_exist(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        FileLock.take(tmp_path / "none", make=False)


def test_a_lock_knows_whether_its_file_is_still_there(tmp_path: Path) -> None:
    path = tmp_path / "a.lock"
    with take(path) as lock:
        assert lock.still_at_path()
        path.rename(tmp_path / "b.lock")
        assert not lock.still_at_path()
        path.touch()
        assert not lock.still_at_path()


def test_a_file_system_without_locks_is_refused_unless_locks_are_optional(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(file_lock.fcntl, "flock", refuse)
    path = tmp_path / "a.lock"
    with pytest.raises(NoFileLocksError, match=r"a\.lock' has no file locks \(Operation not supported\)"):
        FileLock.take(path)
    assert open_files(tmp_path) == []
    with take(path, required=False), take(path, required=False):
        pass


def test_an_interrupt_while_it_waits_leaves_no_file_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(file_lock.fcntl, "flock", interrupt)
    with pytest.raises(KeyboardInterrupt):
        FileLock.take(tmp_path / "a.lock", wait=True)
    assert open_files(tmp_path) == []


def test_a_killed_process_holds_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.lock"
    code = (
        "import pathlib, signal, sys\n"
        "from stal_data.file_lock import FileLock\n"
        "lock = FileLock.take(pathlib.Path(sys.argv[1]))\n"
        "print('taken', flush=True)\n"
        "signal.pause()\n"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    with subprocess.Popen([sys.executable, "-c", code, path], env=environment, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"taken\n"
        assert FileLock.take(path) is None
        other.send_signal(signal.SIGKILL)
        other.wait()
    with take(path):
        pass
