"""Where a writer of a bucket keeps its shards before they are sent: its own while it lives, gone afterwards."""

import fcntl
import gc
import socket
from pathlib import Path

import pytest

from cache.feature_store import FeatureWriter, open_feature_set
from tests.cache.object_store.conftest import OpenStore

pytestmark = pytest.mark.usefixtures("full")


def scratches(path: Path) -> list[Path]:
    return sorted(path.parent.glob(f".{path.name}.*.scratch"))


def is_locked(file: Path) -> bool:
    with file.open("r+") as opened:
        try:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def test_it_is_held_by_a_lock_on_a_file_and_goes_with_the_writer(machine: OpenStore) -> None:
    path = open_feature_set(machine(), "street", "train").path
    writer = FeatureWriter(path)
    (mine,) = scratches(path)
    assert any(is_locked(file) for file in mine.iterdir() if file.is_file())
    other = FeatureWriter(path)
    assert mine in scratches(path)
    assert len(scratches(path)) == 2
    del writer, other
    gc.collect()
    assert scratches(path) == []


def test_that_of_a_dead_process_goes_and_that_of_another_host_stays(machine: OpenStore) -> None:
    path = open_feature_set(machine(), "street", "train").path
    dead = path.with_name(f".{path.name}.{socket.gethostname()}.123.0badc0de.scratch")
    half_removed = path.with_name(f".{path.name}.{socket.gethostname()}.124.0badc0de.scratch")
    elsewhere = path.with_name(f".{path.name}.elsewhere.123.0badc0de.scratch")
    for folder in (dead, half_removed, elsewhere):
        (folder / "slow").mkdir(parents=True)
    for folder in (dead, elsewhere):
        (folder / "writer.lock").touch()
    writer = FeatureWriter(path)
    assert not dead.exists()
    assert not half_removed.exists()
    assert (elsewhere / "slow").is_dir()
    assert writer.pending() == []
