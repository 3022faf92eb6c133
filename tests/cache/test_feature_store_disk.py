"""A disk that fills up while a set is written: a clear error, and the same command goes on where it was."""

import os
import resource
import signal
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from cache.feature_store import FeatureWriter, verify_feature_set
from cache.spec import FeatureSpec
from cache.store import Store
from stal_data.errors import StalError
from tests.cache.conftest import write_rows


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MB, where mounting is allowed."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"no right to mount a file system here: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_is_named_and_the_run_goes_on_after_room_was_made(
    small_disk: Path, spec: FeatureSpec, store: Store
) -> None:
    disk = Store.open(small_disk / "store", create=True)
    features = write_rows(disk, spec, 400, rows_per_shard=100, shards=[0])
    ballast = small_disk / "ballast"
    free = os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_frsize
    ballast.write_bytes(bytes(free - 60_000))  # less than one more shard takes
    with pytest.raises(StalError, match=r"could not be written: No space left on device .*make room and run the same"):
        write_rows(disk, spec, 400, rows_per_shard=100, shards=[1])
    assert features.done.tolist() == [True] * 100 + [False] * 300
    assert verify_feature_set(features.path) == []
    ballast.unlink()
    write_rows(disk, spec, 400, rows_per_shard=100, shards=FeatureWriter(features.path).pending())
    assert_same_files(features.path, write_rows(store, spec, 400, rows_per_shard=100).path)


def test_a_disk_too_full_for_a_new_set_leaves_none(small_disk: Path, spec: FeatureSpec) -> None:
    disk = Store.open(small_disk / "store", create=True)
    free = os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_frsize
    (small_disk / "ballast").write_bytes(bytes(free - 8_000))
    with pytest.raises(StalError, match="No space left on device"):
        write_rows(disk, spec, 400, rows_per_shard=100, shards=[])
    assert [path.name for path in disk.features_dir("street", "train").glob("*") if path.name != ".locks"] == []
    (small_disk / "ballast").unlink()
    assert write_rows(disk, spec, 10).complete


@pytest.fixture
def limited_files() -> Iterator[Callable[[int], None]]:
    """Return a function that limits how large this process' files may grow, in bytes."""
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def test_a_limit_on_files_is_named_too(limited_files: Callable[[int], None], store: Store, spec: FeatureSpec) -> None:
    half = replace(spec, dtype="float16")
    features = write_rows(store, half, 400, rows_per_shard=200, shards=[])
    limited_files(20_000)
    with pytest.raises(StalError, match="could not be written: File too large"):
        write_rows(store, half, 400, rows_per_shard=200)
    limited_files(-1)
    assert not features.done.any()
    assert write_rows(store, half, 400, rows_per_shard=200).complete


def assert_same_files(one: Path, other: Path) -> None:
    def content(root: Path) -> dict[str, bytes]:
        return {str(file.relative_to(root)): file.read_bytes() for file in root.rglob("*") if file.is_file()}

    assert content(one) == content(other)
