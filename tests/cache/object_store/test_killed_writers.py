"""kill -9 of a writer into a bucket, then the same command again: the same objects as without the kill."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cache.feature_store import list_feature_sets, verify_feature_set
from cache.object_store import claims
from cache.store import Store
from stal_data.errors import ConflictError
from tests.cache.object_store import kill_in_bucket
from tests.cache.object_store.kill_in_bucket import MOMENTS, run, write_samples
from tests.cache.object_store.s3_server import FaultProxy
from tests.cache.object_store.test_sets_in_a_bucket import files, objects


@pytest.fixture(scope="module")
def whole(frames_root: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of a local store that nobody disturbed."""
    root = tmp_path_factory.mktemp("whole") / "store"
    run(frames_root, str(root))
    return {name: content for name, content in files(root).items() if name.startswith("features/")}


@pytest.mark.parametrize("moment", [pytest.param("set-half-made", marks=pytest.mark.slow), "rows-half-sent"])
def test_a_writer_goes_on_at_once(proxy: FaultProxy, ten_rows: Path, moment: str) -> None:
    url = kill(moment)
    check_what_is_done(url)
    write_samples(url)
    assert objects(Store.open(url)) == files(ten_rows.parents[3])


@pytest.mark.slow
@pytest.mark.parametrize("moment", MOMENTS)
def test_precompute_goes_on_at_once(proxy: FaultProxy, whole: dict[str, bytes], frames_root: Path, moment: str) -> None:
    url = kill(moment, frames_root)
    check_what_is_done(url)
    run(frames_root, url)
    assert objects(Store.open(url)) == whole


@pytest.mark.slow
@pytest.mark.parametrize("moment", MOMENTS)
def test_another_machine_goes_on_when_the_claim_has_expired(
    proxy: FaultProxy,
    whole: dict[str, bytes],
    frames_root: Path,
    moment: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    url = kill(moment, frames_root)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "other"))
    if moment.startswith("rows"):
        with pytest.raises(ConflictError, match=r"being written by process \d+ on host .* \(heard of \d+ s ago\)"):
            run(frames_root, url)
    proxy.rule = lambda request: f"later-{claims.EXPIRES_S + 1}" if "/.locks/" in request.path else None
    run(frames_root, url)
    assert objects(Store.open(url)) == whole


def kill(moment: str, *frames: Path) -> str:
    command = [sys.executable, "-m", "tests.cache.object_store.kill_in_bucket", moment, *map(str, frames)]
    root = Path(kill_in_bucket.__file__).parents[3]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False, timeout=250)
    assert done.returncode == -signal.SIGKILL, done.stderr
    return f"s3://cache/{moment}"


def check_what_is_done(url: str) -> None:
    """What the dead writer called done is whole."""
    for info in list_feature_sets(Store.open(url)):
        assert verify_feature_set(info.path) == []
        assert info.num_done in (0, 4, 8, 9)
