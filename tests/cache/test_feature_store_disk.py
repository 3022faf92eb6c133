"""A disk that fills up while a set is written: a clear error, and the same command goes on where it was."""

import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from cache.spec import FeatureSpec
from cache.store import Store
from stal_data.errors import StalError
from tests.cache import fill_disk
from tests.cache.conftest import write_rows

ALONE = ["unshare", "--mount"]


def test_a_full_disk_is_named_and_the_run_goes_on_after_room_was_made(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if shutil.which("unshare") is None:
        pytest.skip("there is no unshare here, so no file system can be mounted for the test alone")
    probe = [*ALONE, "mount", "-t", "tmpfs", "tmpfs", str(disk)]
    allowed = subprocess.run(probe, capture_output=True, text=True, check=False)
    if allowed.returncode:
        pytest.skip(f"no right to mount a file system here: {allowed.stderr.strip()}")
    command = [*ALONE, sys.executable, "-m", "tests.cache.fill_disk", str(disk), str(tmp_path / "whole")]
    root = Path(fill_disk.__file__).parents[2]
    run = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert (run.stdout, run.returncode) == ("done\n", 0), run.stderr


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
