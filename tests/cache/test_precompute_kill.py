"""A killed run that is resumed leaves the same bytes as one that was never interrupted."""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from cache.feature_store import FeatureSet, list_feature_sets, verify_feature_set
from cache.store import Store
from tests.cache import kill_precompute
from tests.cache.kill_precompute import KILLS, MAX_LOST, run
from tests.cache.samples import Layout

CHOSEN = [*KILLS, "after-6-clips", "torn-array-full"]
SEED = 20
MOMENTS, SOAK_MOMENTS = 2, 50


@dataclass(frozen=True)
class Killed:
    """What kill_precompute did.

    stores: one for each child; `whole` and `whole-full` are those of the two layouts that nothing was killed in.
    ended, begun: by the child's name, what the child's line says.
    """

    stores: Path
    ended: dict[str, int]
    begun: dict[str, int]


def kill(frames: Path, stores: Path, moments: int) -> Killed:
    command = [sys.executable, "-m", "tests.cache.kill_precompute", frames, stores, SEED, moments]
    root = Path(kill_precompute.__file__).parents[2]
    done = subprocess.run(list(map(str, command)), cwd=root, capture_output=True, text=True, check=True, timeout=1500)
    lines = [line.split() for line in done.stdout.splitlines()]
    killed = Killed(stores, {line[0]: int(line[1]) for line in lines}, {line[0]: int(line[2]) for line in lines})
    assert {name: killed.ended[name] for name in ["whole", *CHOSEN]} == {"whole": 0, **dict.fromkeys(CHOSEN, 9)}
    return killed


@pytest.fixture(scope="module")
def killed(frames_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Killed:
    return kill(frames_root, tmp_path_factory.mktemp("killed"), MOMENTS)


def content(store: Path) -> dict[str, bytes]:
    """Return every file below the feature sets."""
    return {
        str(file.relative_to(store)): file.read_bytes()
        for info in list_feature_sets(Store.open(store))
        for file in info.path.rglob("*")
        if file.is_file()
    }


def resume(killed: Killed, name: str, frames: Path) -> int:
    """Check what the dead run left, finish it, and return the rows whose computing had begun and that were not safe."""
    layout: Layout = "full" if name.endswith("-full") else "pooled"
    store, whole = killed.stores / name, killed.stores / ("whole-full" if layout == "full" else "whole")
    safe: list[int] = []
    if (store / "features").exists():
        for info in list_feature_sets(Store.open(store)):
            # What the dead run called done is whole, and is what an uninterrupted run wrote; the rest is refused.
            assert verify_feature_set(info.path) == []
            features, reference = FeatureSet(info.path), FeatureSet(whole / info.path.relative_to(store))
            done = [row for row in range(info.num_rows) if features.done[row]]
            for array, values in features.read(done).items():
                assert values.tobytes() == reference.read(done)[array].tobytes()
            safe.append(len(done))
    run(frames, store, layout=layout)
    assert content(store) == content(whole)
    return killed.begun[name] - (min(safe) if len(safe) == 2 else 0)


@pytest.mark.parametrize("name", [*CHOSEN, *(f"random-{number:02d}" for number in range(MOMENTS))])
def test_a_killed_run_resumes_to_the_same_bytes(killed: Killed, frames_root: Path, name: str) -> None:
    assert resume(killed, name, frames_root) <= MAX_LOST


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_fifty_random_kills(frames_root: Path, tmp_path: Path) -> None:
    killed = kill(frames_root, tmp_path, SOAK_MOMENTS)
    lost = {name: resume(killed, name, frames_root) for name in killed.ended if name.startswith("random")}
    dead = sum(killed.ended[name] == 9 for name in lost)
    print(f"{dead} of {len(lost)} runs died; key frames begun and lost: {sorted(lost.values())}")
    assert dead > 0.7 * SOAK_MOMENTS
    assert max(lost.values()) <= MAX_LOST
