"""Deleting feature sets: what prune finds, asks and deletes, and what stays."""

import gc
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cache.feature_store import FeatureSet, FeatureWriter, set_lock
from cache.feature_store.manage.prune import delete_feature_set, prune_candidates
from cache.store import Store
from stal_data.errors import ConflictError, NotFoundError, StalError
from tests.cache.cache_command import run
from tests.cache.conftest import WriteSet


def test_prune_asks_shows_and_deletes(store: Store, write_set: WriteSet) -> None:
    whole, part = write_set(10), write_set(10, split="test", shards=[0])
    ids = (whole.path, part.path)
    del whole, part
    shown = run("prune", store.root, "--incomplete", answer="n\n")
    assert shown.exit_code == 1
    assert "6 of 10 rows missing" in shown.stdout
    assert "Delete 1 with" in shown.stdout
    assert all(path.exists() for path in ids)
    assert f"deleted street/test/{ids[1].name}" in run("prune", store.root, "--incomplete", answer="y\n").stdout
    assert [path.exists() for path in ids] == [True, False]
    assert run("prune", store.root, "--incomplete").stdout == "Nothing to delete.\n"
    assert run("prune", store.root).exit_code == 2
    with pytest.raises(NotFoundError, match="Did you mean"):
        run("prune", store.root, "--set", ids[0].name[:-1] + "x")
    run("prune", store.root, "--set", ids[0].name, "--yes")
    assert not ids[0].exists()


def test_prune_finds_what_nothing_was_written_to(store: Store, write_set: WriteSet) -> None:
    path = write_set(3).path
    assert run("prune", store.root, "--older-than", "1").stdout == "Nothing to delete.\n"
    for file in (path, *path.rglob("*")):
        os.utime(file, (0, 0))
    assert "old" in run("prune", store.root, "--older-than", "1", "--yes").stdout
    assert not path.exists()


HOLD = """
import sys
from pathlib import Path
from cache.feature_store import FeatureSet
features = FeatureSet(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def held_elsewhere(write_set: WriteSet) -> Iterator[tuple[Path, subprocess.Popen[bytes]]]:
    path = write_set(3).path
    child = subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert child.stdout.readline() == b"held\n"
        yield path, child
    finally:
        child.kill()
        child.communicate()


def test_a_set_that_another_process_has_open_stays(
    store: Store, held_elsewhere: tuple[Path, subprocess.Popen[bytes]]
) -> None:
    path, child = held_elsewhere
    shown = run("prune", store.root, "--set", path.name, "--yes").stdout
    assert "in use, stays (named)" in shown
    assert "All of them are in use." in shown
    assert path.exists()
    child.kill()  # a killed user holds nothing
    child.wait()
    run("prune", store.root, "--set", path.name, "--yes")
    assert not path.exists()


@pytest.mark.parametrize("name", ["index/time_ms/c/0", "slow/zarr.json"])
def test_a_damaged_set_names_the_command_that_deletes_it(store: Store, write_set: WriteSet, name: str) -> None:
    path, other = write_set(3).path, write_set(3, split="test").path
    with (path / name).open("ab") as file:
        file.write(b" ")
    with pytest.raises(StalError, match="and precompute again") as raised:
        FeatureSet(path).read([0])
    command = re.search("'stal-cli cache (.*?)'", str(raised.value))
    assert command is not None
    del raised  # it holds the set that was opened
    gc.collect()
    run(*shlex.split(command[1]), "--yes")
    assert not path.exists()
    assert other.exists(), "it has the same id"


def test_a_set_that_is_being_deleted_does_not_open(write_set: WriteSet) -> None:
    path = write_set(3).path
    with set_lock.sole_use(path), pytest.raises(ConflictError, match="is being deleted"):
        FeatureSet(path)
    FeatureSet(path)


LOOK = """
import sys
from cache.feature_store.manage.prune import prune_candidates
from cache.store import Store
store = Store.open(sys.argv[1])
print("looking", flush=True)
while True:
    prune_candidates(store, set_ids=[sys.argv[2]])
"""


def test_a_set_opens_while_prune_looks_at_it(store: Store, write_set: WriteSet) -> None:
    path = write_set(3).path
    child = subprocess.Popen([sys.executable, "-c", LOOK, str(store.root), path.name], stdout=subprocess.PIPE)
    try:
        assert child.stdout.readline() == b"looking\n"
        for _ in range(20_000):
            with set_lock.in_use(path):
                pass
        assert child.poll() is None
    finally:
        child.kill()
        child.communicate()


def test_what_a_killed_process_left_is_deleted(store: Store, write_set: WriteSet) -> None:
    path = write_set(3).path
    leftover = path.with_name(f".{path.name}.host.1.{'0' * 32}.partial")
    shutil.copytree(path, leftover)
    shown = run("prune", store.root, "--incomplete", "--yes").stdout
    assert "left by a killed process" in shown
    assert not leftover.exists()
    assert path.exists()


@pytest.mark.parametrize("name", ["notes", ".notes.partial", ".backup.host.1.partial"])
def test_a_folder_that_is_no_feature_set_is_not_deleted(store: Store, write_set: WriteSet, name: str) -> None:
    own = write_set(3).path.with_name(name)
    own.mkdir()
    (own / "mine.txt").write_text("my own work")
    shown = run("prune", store.root, "--incomplete", "--older-than", "0", "--yes").stdout
    assert "notes" not in shown
    assert (own / "mine.txt").read_text() == "my own work"


def test_where_locks_are_missing_nobody_writes_or_deletes(
    store: Store, write_set: WriteSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file system without flock cannot be mounted in a test, so the call itself is replaced."""
    path = write_set(3).path

    def refuse(descriptor: int, operation: int) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr("fcntl.flock", refuse)
    FeatureSet(path).read([0])
    with pytest.raises(ConflictError, match="has no file locks"):
        FeatureWriter(path).claim(0)
    with pytest.raises(ConflictError, match="has no file locks"):
        set_lock.sole_use(path).__enter__()


def test_a_set_that_changed_after_it_was_shown_stays(store: Store, write_set: WriteSet) -> None:
    path = write_set(10, shards=[0]).path
    [shown] = prune_candidates(store, incomplete=True)
    assert shown.reason == "6 of 10 rows missing"
    write_set(10, shards=[1, 2])
    with pytest.raises(ConflictError, match=r"has changed .*\(6 of 10 rows missing then, sound now"):
        delete_feature_set(shown)
    assert FeatureSet(path).complete
    [named] = prune_candidates(store, set_ids=[path.name])
    delete_feature_set(named)
    with pytest.raises(ConflictError, match="has changed since"):
        delete_feature_set(named)
