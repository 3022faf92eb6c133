"""Shards kept on the local disk."""

import fcntl
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from cache.feature_store import DamagedError, FeatureSet, open_feature_set, reset_shard
from cache.object_store.mirror import Mirror
from cache.spec import FeatureSpec
from stal_data.errors import ConflictError, InputError, StalError
from tests.cache.conftest import write_rows
from tests.cache.object_store.conftest import URL, OpenStore
from tests.cache.object_store.s3_server import FaultProxy, Request
from tests.cache.samples import make_features
from tests.cache.small_disk import run_on_small_disk

EXPECTED = make_features(10)
SHARD_BYTES = 2960
"""Of one shard of 4 rows in all arrays."""


pytestmark = pytest.mark.usefixtures("full")


def staged(features: FeatureSet) -> list[Path]:
    return [path for path in features.path.glob("*/c/*/**/*") if path.is_file()]


def staged_bytes(features: FeatureSet) -> int:
    return sum(path.stat().st_size for path in staged(features))


def gets(proxy: FaultProxy) -> list[Request]:
    return [r for r in proxy.log if r.method == "GET" and any(f"/{name}/c/" in r.path for name in EXPECTED)]


def test_each_shard_is_fetched_once(machine: OpenStore, proxy: FaultProxy) -> None:
    features = open_feature_set(machine("reader", 10**6), "street", "train")
    proxy.log.clear()
    for _ in range(3):
        assert (features.read([9, 0, 5, 1])["vit"] == EXPECTED["vit"][[9, 0, 5, 1]]).all()
    assert len(gets(proxy)) == 12
    assert staged_bytes(features) == 3 * SHARD_BYTES
    proxy.log.clear()
    again = open_feature_set(machine("reader", 10**6), "street", "train")
    assert (again.read(range(10))["slow"] == EXPECTED["slow"]).all()
    assert gets(proxy) == []


def test_the_limit_holds_and_the_least_recently_used_goes_first(machine: OpenStore, proxy: FaultProxy) -> None:
    features = open_feature_set(machine("reader", 2 * SHARD_BYTES + 100), "street", "train")
    for shard in (0, 1, 0, 2):
        features = open_feature_set(machine("reader", 2 * SHARD_BYTES + 100), "street", "train")
        features.read([4 * shard])
        assert staged_bytes(features) <= 2 * SHARD_BYTES + 100
    assert {path.relative_to(features.path).parts[2] for path in staged(features)} == {"0", "2"}


def test_every_row_is_right_in_a_stage_of_one_shard(machine: OpenStore) -> None:
    features = open_feature_set(machine("reader", SHARD_BYTES), "street", "train")
    rows = np.random.default_rng(0).permutation(10)
    assert (features.read(rows)["fast"] == EXPECTED["fast"][rows]).all()
    assert staged_bytes(features) <= SHARD_BYTES


def test_a_shard_that_does_not_fit_says_which_option_to_raise(machine: OpenStore) -> None:
    features = open_feature_set(machine("reader", 700), "street", "train")
    with pytest.raises(InputError, match=r"vit/c/0/0/0/0' has .* MB, more than the stage.*--stage-limit"):
        features.read([0])


def test_a_damaged_copy_is_fetched_again(machine: OpenStore) -> None:
    features = open_feature_set(machine("reader", 10**6), "street", "train")
    features.read(range(10))
    path = features.path / "vit/c/1/0/0/0"
    for content in (path.read_bytes()[:100], bytes(path.stat().st_size)):
        path.write_bytes(content)
        fresh = open_feature_set(machine("reader", 10**6), "street", "train")
        assert (fresh.read([4, 5])["vit"] == EXPECTED["vit"][4:6]).all()


def test_damage_in_the_bucket_is_not_hidden(machine: OpenStore, proxy: FaultProxy) -> None:
    features = open_feature_set(machine("reader", 10**6), "street", "train")
    proxy.rule = lambda request: "flip" if "/slow/c/2/" in request.path else None
    with pytest.raises(InputError, match="checksum"):
        features.read([9])
    proxy.rule = lambda request: None
    assert (features.read([9])["slow"] == EXPECTED["slow"][9]).all()


def test_a_fetch_that_breaks_off_leaves_no_shard(machine: OpenStore, proxy: FaultProxy) -> None:
    features = open_feature_set(machine("reader", 10**6), "street", "train")
    proxy.rule = lambda request: "reset" if request.method == "GET" and "/vit/c/0/" in request.path else None
    with pytest.raises(Exception, match="failed 6 times"):
        features.read([0])
    assert not [path for path in staged(features) if "vit" in path.parts]
    proxy.rule = lambda request: None
    features.read([0])


def test_readers_share_a_stage(machine: OpenStore, proxy: FaultProxy) -> None:
    """Several readers at once, in a stage that is too small for them all: each row is right, no shard is torn."""
    readers = [open_feature_set(machine("reader", 2 * SHARD_BYTES), "street", "train") for _ in range(4)]

    def all_right(number: int) -> bool:
        rows = np.random.default_rng(number).permutation(10)
        return all((readers[number].read([row])["vit"] == EXPECTED["vit"][row]).all() for row in rows)

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(all_right, range(4)))
    assert staged_bytes(readers[0]) <= 2 * SHARD_BYTES


def test_a_shard_that_was_computed_anew_replaces_the_staged_one(machine: OpenStore, spec: FeatureSpec) -> None:
    reader = machine("reader", 10**6)
    features = open_feature_set(reader, "street", "train")
    features.read([4])
    writer = machine("writer")
    path = open_feature_set(writer, "street", "train").path
    reset_shard(path, 1)
    write_rows(writer, spec, 10, shards=[1], seed=7)
    fresh = open_feature_set(reader, "street", "train")
    assert (fresh.read([4])["vit"] == make_features(10, 7)["vit"][4]).all()


def test_a_folder_of_something_else_is_not_a_stage(machine: OpenStore, tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.tex").write_text("")
    with pytest.raises(InputError, match="holds something else"):
        machine("home", 10**6)


def test_a_folder_that_cannot_be_made_names_the_ways_to_choose_another(
    machine: OpenStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(InputError, match=r"mirror of 's3://cache/some/store' cannot be made in .*XDG_CACHE_HOME"):
        Mirror.open(URL)


def test_a_stage_belongs_to_one_bucket(tmp_path: Path, machine: OpenStore) -> None:
    machine("reader", 10**6)
    with pytest.raises(ConflictError, match="mirrors s3://cache/some/store, not s3://cache/other"):
        Mirror.open("s3://cache/other", folder=tmp_path / "reader")


def test_what_a_killed_process_had_fetched_of_a_shard_goes(machine: OpenStore) -> None:
    features = open_feature_set(machine("reader", 10**6), "street", "train")
    for name in ("vit/c/1/0/0", "vit/c/2/0/0"):
        (features.path / name).mkdir(parents=True)
        (features.path / name / ".0.partial").write_bytes(bytes(100))
    with (features.path / "vit/c/2/0/0/.0.partial").open() as alive:
        fcntl.flock(alive, fcntl.LOCK_EX)
        features.read([0])
    assert not (features.path / "vit/c/1/0/0/.0.partial").exists()
    assert (features.path / "vit/c/2/0/0/.0.partial").exists()


def test_a_full_disk_is_not_taken_for_damage(machine: OpenStore, spec: FeatureSpec, tmp_path: Path) -> None:
    write_rows(machine("writer"), spec, 400, rows_per_shard=400, split="test")
    run_on_small_disk("tests.cache.object_store.fill_stage", tmp_path, URL)


def test_a_stage_that_cannot_be_written_is_not_taken_for_damage(machine: OpenStore) -> None:
    features = open_feature_set(machine("reader", 10**6), "street", "train")
    features.marks()
    (features.path / "slow/c").write_text("not a folder")
    with pytest.raises(StalError, match=r"slow/c/0/0/0/0' could not be staged: .*--stage") as raised:
        features.read([0])
    assert not isinstance(raised.value, DamagedError)
