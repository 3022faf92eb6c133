"""One writer for each shard, over machines that share nothing but the bucket."""

import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from cache.feature_store import FeatureBatch, FeatureWriter, open_feature_set
from cache.object_store import claims
from cache.object_store.mirror import Mirror
from cache.spec import FeatureSpec
from cache.store import Store
from stal_data.errors import ConflictError, StalError
from tests.cache.conftest import write_rows
from tests.cache.object_store.conftest import OpenStore
from tests.cache.object_store.s3_server import FaultProxy, Request
from tests.cache.samples import make_features


@pytest.fixture
def spec_in_bucket(fill: Callable[[Path], None], store: Store, spec: FeatureSpec) -> FeatureSpec:
    """The spec of a set of 10 rows in shards of 4 that nobody has filled."""
    write_rows(store, spec, 10, shards=[])
    fill(store.root)
    return spec


def writer_of(store: Store) -> FeatureWriter:
    return FeatureWriter(open_feature_set(store, "street", "train").path)


def shard_of(writer: FeatureWriter, shard: int) -> FeatureBatch:
    rows = writer.manifest.rows_of(shard)
    return {name: values[rows.start : rows.stop] for name, values in make_features(10).items()}


@pytest.mark.usefixtures("spec_in_bucket")
def test_the_second_writer_of_a_shard_is_refused(machine: OpenStore) -> None:
    one, other = writer_of(machine("one")), writer_of(machine("other"))
    claim = one.claim(1)
    assert claim is not None
    assert other.claim(1) is None
    assert "on host" in other.owner(1)
    with other.claim(2) or pytest.fail("another shard is free"):
        pass
    with claim:
        one.write_shard(claim, shard_of(one, 1))
    with other.claim(1) or pytest.fail("it was released"):
        assert not other.is_pending(1)


@pytest.mark.usefixtures("spec_in_bucket")
def test_threads_and_processes_of_one_machine_exclude_each_other_too(machine: OpenStore) -> None:
    one, other = writer_of(machine("same")), writer_of(machine("same"))
    with one.claim(1) or pytest.fail("it is free"):
        assert other.claim(1) is None


@pytest.mark.usefixtures("spec_in_bucket")
def test_one_of_many_that_ask_at_once_gets_it(machine: OpenStore, monkeypatch: pytest.MonkeyPatch) -> None:
    writers = [writer_of(machine(f"m{number}")) for number in range(4)]
    start, found = threading.Barrier(4), []

    def ask(writer: FeatureWriter) -> None:
        start.wait()
        found.append(writer.claim(0))

    threads = [threading.Thread(target=ask, args=(writer,)) for writer in writers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    held = [claim for claim in found if claim is not None]
    assert len(held) == 1
    held[0].release()


@pytest.mark.usefixtures("spec_in_bucket")
def test_a_silent_owner_is_replaced_by_the_server_s_clock(machine: OpenStore, proxy: FaultProxy) -> None:
    """The proxy puts the server's clock forward; no clock of ours is looked at."""
    one, other = writer_of(machine("one")), writer_of(machine("other"))
    claim = one.claim(1)
    assert claim is not None
    proxy.rule = lambda request: f"later-{claims.EXPIRES_S - 5}" if "shard-000001" in request.path else None
    assert other.claim(1) is None
    proxy.rule = lambda request: f"later-{claims.EXPIRES_S + 5}" if "shard-000001" in request.path else None
    taken = other.claim(1)
    assert taken is not None
    assert one.claim(1) is None
    # The first one notices at its next renewal, and neither renews nor frees what is no longer its own.
    assert claim.lease is not None
    claim.lease._renew(claim.lease._renewal())
    with pytest.raises(ConflictError, match="could not be renewed"):
        one.write_shard(claim, shard_of(one, 1))
    claim.release()
    with taken:
        other.write_shard(taken, shard_of(other, 1))
    assert not one.is_pending(1)


@pytest.mark.usefixtures("spec_in_bucket")
def test_an_owner_that_cannot_renew_stops_writing(
    machine: OpenStore, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = writer_of(machine())
    claim = writer.claim(0)
    assert claim is not None
    assert claim.lease is not None
    now = claims._now_s()
    monkeypatch.setattr(claims, "_now_s", lambda: now + claims.STOP_S + 1)
    with claim, pytest.raises(ConflictError, match="could not be renewed for 90 s"):
        writer.write_shard(claim, shard_of(writer, 0))
    monkeypatch.undo()
    assert writer.is_pending(0)
    assert not [r for r in proxy.log if r.method == "PUT" and "/vit/c/0/" in r.path]


@pytest.mark.usefixtures("spec_in_bucket")
def test_a_claim_that_expires_anyway_is_given_up_without_a_request(
    machine: OpenStore, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So a command ends soon after it has lost the bucket, however many shards it holds."""
    claim = writer_of(machine()).claim(0)
    assert claim is not None
    now, before = claims._now_s(), len(proxy.log)
    monkeypatch.setattr(claims, "_now_s", lambda: now + claims.STOP_S + 1)
    claim.release()
    assert len(proxy.log) == before


@pytest.mark.usefixtures("spec_in_bucket")
@pytest.mark.parametrize("fault", ["503", "reset", "lost"])
def test_a_renewal_that_failed_is_made_again(
    machine: OpenStore, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    """Also where it was done and only the answer was lost, after which the bucket holds a newer claim than we know."""
    puts, renewed = 0, threading.Event()

    def rule(request: Request) -> str | None:
        nonlocal puts
        if request.method == "PUT" and "shard-000000" in request.path:
            puts += 1
            if puts == 4:  # the claim, the renewal that fails, the same again, and the next
                renewed.set()
            return fault if puts == 2 else None
        return None

    proxy.rule = rule
    monkeypatch.setattr(claims, "RENEW_S", 0.01)
    other = writer_of(machine("other"))
    with writer_of(machine()).claim(0) or pytest.fail("it is free") as claim:
        assert renewed.wait(60)
        assert claim.lease is not None
        claim.lease.check()
        assert other.claim(0) is None
    with other.claim(0) or pytest.fail("it was released"):
        pass


@pytest.mark.usefixtures("spec_in_bucket")
def test_a_claim_is_freed_also_when_the_last_renewals_answer_was_lost(machine: OpenStore, proxy: FaultProxy) -> None:
    with writer_of(machine()).claim(0) or pytest.fail("it is free") as claim:
        assert claim.lease is not None
        proxy.rule = lambda request: "lost" if request.method == "PUT" else None
        with pytest.raises(StalError, match="failed 1 times"):
            claim.lease._renew(claim.lease._renewal())
        proxy.rule = lambda request: None
    with writer_of(machine("other")).claim(0) or pytest.fail("it was released"):
        pass


@pytest.mark.usefixtures("spec_in_bucket")
def test_renewing_goes_on_by_itself(machine: OpenStore, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch) -> None:
    renewed, answered = threading.Event(), []

    def watch(request: Request) -> None:
        if request.method == "PUT" and "shard-000000" in request.path:
            answered.append(request)
            if len(answered) == 4:
                renewed.set()

    proxy.rule = watch
    monkeypatch.setattr(claims, "RENEW_S", 0.01)
    with writer_of(machine()).claim(0) or pytest.fail("it is free") as claim:
        assert renewed.wait(60)
        assert claim.lease is not None
        claim.lease.check()


@pytest.mark.usefixtures("spec_in_bucket")
def test_the_claim_of_a_dead_process_of_this_folder_is_free_at_once(machine: OpenStore) -> None:
    """Its lock in the kernel is free, so it lives no more; another machine waits until the claim expires."""
    store = machine("one")
    writer = writer_of(store)
    claim = writer.claim(0)
    assert claim is not None
    assert claim.lease is not None
    dead, claim.lease = claim.lease, None  # as after kill -9: nobody releases it
    dead._end.set()
    claim.release()
    assert writer_of(machine("other")).claim(0) is None
    with writer.claim(0) or pytest.fail("it is free"):
        pass


def test_a_claim_file_of_another_make_is_respected_until_it_expires(
    machine: OpenStore, spec_in_bucket: FeatureSpec, proxy: FaultProxy
) -> None:
    store = machine("one")
    assert store.mirror is not None
    key = f"features/street/train/.locks/{spec_in_bucket.id}/shard-000000.json"
    store.mirror.bucket.put(key, json.dumps({"who": "?"}).encode())
    writer = writer_of(store)
    assert writer.claim(0) is None
    proxy.rule = lambda request: "later-1000" if "shard-000000" in request.path else None
    with writer.claim(0) or pytest.fail("it has expired"):
        pass


def test_two_machines_that_make_one_set_agree(machine: OpenStore, spec: FeatureSpec) -> None:
    stores, found = [machine(f"m{number}") for number in range(3)], []
    start = threading.Barrier(3)

    def make(store: Store, rows_per_shard: int) -> None:
        start.wait()
        found.append(write_rows(store, spec, 10, rows_per_shard=rows_per_shard, shards=[]).manifest.rows_per_shard)

    threads = [threading.Thread(target=make, args=(store, 3 + n)) for n, store in enumerate(stores)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 3
    assert len(set(found)) == 1
    assert not np.any(open_feature_set(machine("late"), "street", "train").done)


def test_two_processes_of_one_machine_that_make_one_set_agree(
    machine: OpenStore, spec: FeatureSpec, proxy: FaultProxy
) -> None:
    """They share a mirror, so each would take the other's claim for that of a dead process."""
    store = machine("same")
    start, metadata = threading.Barrier(2), f"/{spec.id}/zarr.json"

    def make(rows_per_shard: int) -> int:
        start.wait()
        return write_rows(store, spec, 10, rows_per_shard=rows_per_shard, shards=[]).manifest.rows_per_shard

    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(make, (3, 5)))
    assert len(set(found)) == 1
    assert len([r for r in proxy.log if r.method == "PUT" and r.path.endswith(metadata)]) == 1
    assert not [r for r in proxy.log if r.method == "DELETE" and ".probe" not in r.path]


def test_processes_that_open_a_new_mirror_at_once_agree_on_its_id(proxy: FaultProxy, tmp_path: Path) -> None:
    start = threading.Barrier(6)

    def open_mirror(_: int) -> str:
        start.wait()
        return Mirror.open("s3://cache/some", folder=tmp_path / "mirror").folder_id

    with ThreadPoolExecutor(6) as pool:
        ids = set(pool.map(open_mirror, range(6)))
    assert len(ids) == 1
    assert ids == {Mirror.open("s3://cache/some", folder=tmp_path / "mirror").folder_id}
