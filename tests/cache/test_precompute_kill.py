"""A killed run that is resumed leaves the same bytes as one that was never interrupted."""

import subprocess
import sys
from pathlib import Path

import pytest

from cache.feature_store import FeatureSet, list_feature_sets, verify_feature_set
from cache.store import Store
from tests.cache import kill_precompute
from tests.cache.kill_precompute import KILLS, run

NAMES = [*KILLS, "after-6-clips"]


@pytest.fixture(scope="module")
def killed(frames_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder with one store for each way to die."""
    stores = tmp_path_factory.mktemp("killed")
    command = [sys.executable, "-m", "tests.cache.kill_precompute", str(frames_root), str(stores)]
    root = Path(kill_precompute.__file__).parents[2]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True, timeout=250)
    assert dict(line.split() for line in done.stdout.splitlines()) == dict.fromkeys(NAMES, "9"), done.stderr
    return stores


@pytest.fixture(scope="module")
def uninterrupted(frames_root: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    store = tmp_path_factory.mktemp("whole")
    run(frames_root, store)
    return content(store)


def content(store: Path) -> dict[str, bytes]:
    """Return every file below the feature sets."""
    return {
        str(file.relative_to(store)): file.read_bytes()
        for info in list_feature_sets(Store.open(store))
        for file in info.path.rglob("*")
        if file.is_file()
    }


@pytest.mark.parametrize("name", NAMES)
def test_a_killed_run_resumes_to_the_same_bytes(
    killed: Path, uninterrupted: dict[str, bytes], frames_root: Path, name: str
) -> None:
    store = killed / name
    for info in list_feature_sets(Store.open(store)):
        # What the dead run called done is whole; the rest is refused.
        assert info.num_done < info.num_rows or info.spec.view == "identity"
        assert verify_feature_set(info.path) == []
        done = FeatureSet(info.path).done
        FeatureSet(info.path).read([row for row in range(info.num_rows) if done[row]])
    run(frames_root, store)
    assert content(store) == uninterrupted
