"""Sets in a bucket whose replies stop, or come a byte at a time: all rows are written and read nevertheless."""

import re
from dataclasses import replace
from functools import partial

import pytest

from cache.feature_store import open_feature_set
from cache.object_store import mirror
from cache.object_store.bucket import Bucket
from cache.spec import FeatureSpec
from cache.store import Store
from tests.cache.conftest import write_rows
from tests.cache.object_store.conftest import QUICK, OpenStore
from tests.cache.object_store.s3_server import Fault, FaultProxy, Request
from tests.cache.object_store.test_sets_in_a_bucket import ROWS, files, objects, same_rows

LIMITS = replace(QUICK, attempts=30, silence_s=0.2, give_up_s=60.0)


class Once:
    """A fault for the first request of each kind: of each method, on each array or kind of small file."""

    def __init__(self, fault: Fault) -> None:
        self._fault = fault
        self.kinds: set[tuple[str, str]] = set()

    def __call__(self, request: Request) -> Fault | None:
        kind = (request.method, re.sub(r"\d+", "N", request.path))
        # A trickling list is read to its end by the library, so it is slow and no fault.
        if kind in self.kinds or (self._fault == "trickle" and (request.method != "GET" or "list" in request.query)):
            return None
        self.kinds.add(kind)
        return self._fault

    def met(self, method: str, name: str) -> bool:
        return any(name in path for done, path in self.kinds if done == method)


@pytest.fixture
def hasty(machine: OpenStore, monkeypatch: pytest.MonkeyPatch) -> OpenStore:
    """Machines that wait for a reply for a moment only."""
    monkeypatch.setattr(mirror, "Bucket", partial(Bucket, limits=LIMITS))
    return machine


def test_a_set_is_written_where_requests_hang(
    hasty: OpenStore, proxy: FaultProxy, store: Store, spec: FeatureSpec
) -> None:
    proxy.rule = hang = Once("hang")
    assert same_rows(write_rows(hasty("writer"), spec, ROWS))
    assert all(hang.met("PUT", name) for name in ("/slow/c/", "/vit/c/", "/digest/c/", "/done/c/", ".locks", ".probe"))
    proxy.rule = lambda request: None
    write_rows(store, spec, ROWS)
    assert objects(hasty("reader")) == files(store.root)


@pytest.mark.usefixtures("full")
@pytest.mark.parametrize(("fault", "stage_bytes"), [("hang", None), ("trickle", 10**6)])
def test_a_set_is_read_where_replies_stop_or_trickle(
    hasty: OpenStore, proxy: FaultProxy, fault: str, stage_bytes: int | None
) -> None:
    proxy.rule = slow = Once(fault)
    assert same_rows(open_feature_set(hasty("reader", stage_bytes), "street", "train"))
    assert all(slow.met("GET", name) for name in ("/slow/c/", "/vit/c/", "/digest/c/", "/done/c/", "zarr.json"))
