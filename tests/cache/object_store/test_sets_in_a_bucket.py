"""Feature sets in a bucket: the same bytes as in a folder, for every machine, whatever the network does."""

import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import obstore
import pytest
import zarr
from click.testing import CliRunner
from zarr.storage import ObjectStore

from cache.feature_store import (
    DamagedError,
    FeatureSet,
    FeatureWriter,
    list_feature_sets,
    open_feature_set,
    reset_shard,
    verify_feature_set,
)
from cache.feature_store.layout import COLUMNS, TIME_COLUMNS, VERSION
from cache.feature_store.manage.copy import copy_feature_set
from cache.feature_store.manage.prune import prune_candidates
from cache.spec import FeatureSpec
from cache.store import Store
from cli.commands.cache import cache
from stal_data.errors import ConflictError, InputError, NotFoundError, StalError
from tests.cache.conftest import write_rows
from tests.cache.object_store.conftest import URL, OpenStore
from tests.cache.object_store.s3_server import FaultProxy, Request
from tests.cache.samples import LAYOUTS, SHAPES, Layout, layout_of, make_features, with_layout

ROWS, SET = 10, "features/street/train"


def same_rows(features: FeatureSet, rows: range = range(ROWS)) -> bool:
    expected, found = make_features(ROWS, layout=layout_of(features.spec)), features.read(rows)
    return all((found[name] == values[rows]).all() for name, values in expected.items())


def objects(store: Store) -> dict[str, bytes]:
    """Every object of the sets themselves."""
    assert store.mirror is not None
    bucket = store.mirror.bucket
    keys = [info.key for info in bucket.objects("features/") if "/.locks/" not in info.key]
    return {key: found.content for key in keys if (found := bucket.get(key)) is not None}


def files(folder: Path) -> dict[str, bytes]:
    paths = [path for path in folder.rglob("*") if path.is_file() and ".locks" not in path.parts]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def change(store: Store, key: str, edit: Callable[[bytes], bytes | None]) -> None:
    assert store.mirror is not None
    found = store.mirror.bucket.get(key)
    assert found is not None
    content = edit(found.content)
    if content is None:
        store.mirror.bucket.delete(key)
    else:
        store.mirror.bucket.put(key, content)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_objects_are_the_files_of_a_local_store(
    machine: OpenStore, store: Store, spec: FeatureSpec, layout: Layout
) -> None:
    spec = with_layout(spec, layout)
    write_rows(store, spec, ROWS)
    write_rows(machine(), spec, ROWS)
    assert objects(machine()) == files(store.root)
    assert same_rows(open_feature_set(machine("reader"), "street", "train", spec=spec))


@pytest.mark.usefixtures("full")
def test_another_machine_reads_them(machine: OpenStore) -> None:
    reader = machine("reader")
    features = open_feature_set(reader, "street", "train")
    assert same_rows(features)
    (info,) = list_feature_sets(reader)
    assert info.complete
    assert info.num_bytes == sum(len(content) for content in objects(reader).values())
    assert not list(features.path.glob("*/c/*/0"))  # no shard was kept


@pytest.mark.usefixtures("full")
def test_zarr_opens_every_array_over_the_network(machine: OpenStore, spec: FeatureSpec, proxy: FaultProxy) -> None:
    features = open_feature_set(machine(), "street", "train")
    features.marks()
    remote = obstore.store.from_url(
        f"{URL}/{SET}/{spec.id}",
        endpoint=proxy.url,
        access_key_id="key",
        secret_access_key="secret",
        region="us-east-1",
        client_options={"allow_http": True},
    )
    group = zarr.open_group(ObjectStore(remote, read_only=True), mode="r", zarr_format=3)
    for name, values in make_features(ROWS).items():
        assert (np.asarray(group[name])[:ROWS] == values).all()
    here = zarr.open_group(features.path, mode="r", zarr_format=3)
    for name in (*COLUMNS, TIME_COLUMNS[VERSION]):
        if name != "index":
            assert (np.asarray(group[name]) == np.asarray(here[name])).all()


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 10))])
def test_no_row_is_lost_on_a_bad_network(
    machine: OpenStore, proxy: FaultProxy, store: Store, spec: FeatureSpec, seed: int
) -> None:
    draw = random.Random(seed)
    faults = ("500", "503", "reset", "lost", "truncate")
    proxy.rule = lambda request: draw.choice(faults) if draw.random() < 0.1 else None
    assert same_rows(write_rows(machine("writer"), spec, ROWS))
    assert same_rows(open_feature_set(machine("reader"), "street", "train"))
    assert same_rows(open_feature_set(machine("staging", 10**6), "street", "train"))
    proxy.rule = lambda request: None
    write_rows(store, spec, ROWS)
    assert objects(machine()) == files(store.root)


def test_done_is_written_after_the_rows_it_speaks_of(machine: OpenStore, proxy: FaultProxy, spec: FeatureSpec) -> None:
    write_rows(machine(), spec, ROWS)
    puts = [request.path for request in proxy.log if request.method == "PUT"]
    for shard in range(3):
        done = next(i for i, path in enumerate(puts) if path.endswith(f"/done/c/{shard}"))
        names = [f"/{name}/c/{shard}/0/0" for name in SHAPES] + [f"/digest/c/{shard}"]
        assert all(any(name in path for path in puts[:done]) for name in names)
    assert puts.index(next(path for path in puts if path.endswith(f"{spec.id}/zarr.json"))) > 15


def test_a_reader_meanwhile_sees_done_rows_only(machine: OpenStore, proxy: FaultProxy, spec: FeatureSpec) -> None:
    """Before each object is written, another machine looks: what is done, it can read."""
    seen, looking = [], False

    def look(request: Request) -> None:
        nonlocal looking
        if looking or request.method != "PUT" or "/c/" not in request.path or "/index/" in request.path:
            return
        looking = True
        try:
            features = open_feature_set(machine("reader"), "street", "train")
            rows = np.flatnonzero(features.done)
            assert len(rows) in (0, 4, 8, 10)
            if len(rows):
                assert same_rows(features, range(len(rows)))
            seen.append(len(rows))
        except NotFoundError:
            seen.append(-1)
        finally:
            looking = False

    proxy.rule = look
    write_rows(machine("writer"), spec, ROWS)
    assert {0, 4, 8} <= set(seen)


@pytest.mark.usefixtures("full")
@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        pytest.param(
            lambda content: bytes([content[0] ^ 1]) + content[1:],
            "the checksum of row 0 of the shard does not match",
            id="flipped",
        ),
        pytest.param(lambda content: content[:300], "is damaged", id="truncated", marks=pytest.mark.slow),
        pytest.param(lambda content: None, "it does not open", id="deleted", marks=pytest.mark.slow),
    ],
)
def test_damage_in_the_bucket_is_noticed_and_repaired(
    machine: OpenStore, spec: FeatureSpec, edit: Callable[[bytes], bytes | None], reason: str
) -> None:
    features = open_feature_set(machine(), "street", "train")
    change(machine(), f"{SET}/{spec.id}/vit/c/1/0/0/0", edit)
    with pytest.raises(InputError, match=rf"s3://cache/some/store/.*/vit/c/1/0/0/0' is damaged.*{reason}|{reason}"):
        features.read([4])
    (found,) = verify_feature_set(features.path)
    assert found.shard == 1
    reset_shard(features.path, 1)
    with pytest.raises(InputError, match="is not computed yet, like 4 of 10 rows"):
        open_feature_set(machine("reader"), "street", "train").read([4])
    write_rows(machine(), spec, ROWS, shards=[1])
    assert verify_feature_set(features.path) == []
    assert same_rows(features)


@pytest.mark.usefixtures("full")
@pytest.mark.parametrize(
    ("key", "edit"),
    [
        pytest.param("index/video/c/0", lambda content: None, id="column-lost"),
        pytest.param("index/time_ms/c/0", lambda content: content[:-1] + b"x", id="column-flipped"),
        pytest.param("slow/zarr.json", lambda content: content + b" ", id="metadata-changed"),
        pytest.param("zarr.json", lambda content: content.replace(b'"version": 3', b'"version": 1'), id="older"),
    ],
)
def test_a_set_that_can_only_be_deleted_says_how_in_a_bucket(
    machine: OpenStore, spec: FeatureSpec, key: str, edit: Callable[[bytes], bytes | None]
) -> None:
    store = machine()
    change(store, f"{SET}/{spec.id}/{key}", edit)
    way_out = f"delete everything below '{URL}/{SET}/{spec.id}/' with the server's own tool.* and precompute again"
    with pytest.raises(StalError, match=way_out) as raised:
        open_feature_set(store, "street", "train", spec=spec).read([0])
    assert "stal-cli cache" not in str(raised.value)


@pytest.mark.usefixtures("full")
def test_a_flipped_reply_is_not_taken_for_features(machine: OpenStore, proxy: FaultProxy) -> None:
    features = open_feature_set(machine(), "street", "train")
    proxy.rule = lambda request: "flip" if "/vit/c/" in request.path else None
    with pytest.raises(InputError, match="checksum"):
        features.read([4])


def test_copy_to_a_bucket_and_back_resumes(
    machine: OpenStore, store: Store, tmp_path: Path, spec: FeatureSpec, proxy: FaultProxy
) -> None:
    source = write_rows(store, spec, ROWS).path
    write_rows(machine(), spec, ROWS, shards=[1])
    proxy.log.clear()
    result = copy_feature_set(source, machine())
    assert (result.copied, result.present) == (6, 4)
    assert not [r for r in proxy.log if r.method == "PUT" and "/c/1" in r.path and "index" not in r.path]
    back = Store.open(tmp_path / "back", create=True)
    result = copy_feature_set(open_feature_set(machine("other"), "street", "train").path, back)
    assert (result.copied, result.present) == (10, 0)
    assert files(back.root) == files(store.root) == objects(machine())


@pytest.mark.usefixtures("full")
def test_the_mirror_follows_a_set_that_was_deleted_and_made_anew(machine: OpenStore, spec: FeatureSpec) -> None:
    store = machine()
    assert len(list_feature_sets(store)) == 1
    assert store.mirror is not None
    for key in objects(store):
        store.mirror.bucket.delete(key)
    assert list_feature_sets(store) == []
    write_rows(machine("other"), spec, 6, rows_per_shard=3)
    assert open_feature_set(store, "street", "train").manifest.num_rows == 6


def test_what_a_killed_maker_left_is_no_set_and_no_obstacle(
    machine: OpenStore, fill: Callable[[Path], None], store: Store, spec: FeatureSpec
) -> None:
    write_rows(store, spec, ROWS, rows_per_shard=5, shards=[])
    fill(store.root)
    store = machine()
    assert store.mirror is not None
    store.mirror.bucket.delete(f"{SET}/{spec.id}/zarr.json")
    assert list_feature_sets(store) == []
    features = write_rows(machine("other"), spec, ROWS, shards=[])
    assert not features.done.any()
    assert features.manifest.rows_per_shard == 4


@pytest.mark.usefixtures("full")
def test_computed_rows_are_not_deleted_because_the_metadata_are_gone(machine: OpenStore, spec: FeatureSpec) -> None:
    store = machine()
    assert store.mirror is not None
    store.mirror.bucket.delete(f"{SET}/{spec.id}/zarr.json")
    before = objects(store)
    with pytest.raises(ConflictError, match=r"holds computed rows, but its zarr\.json is gone; restore"):
        write_rows(store, spec, ROWS)
    assert objects(store) == before


@pytest.mark.usefixtures("full")
@pytest.mark.parametrize("answer", ["done nevertheless", "501"])
def test_a_server_without_conditions_is_refused_for_writing(machine: OpenStore, proxy: FaultProxy, answer: str) -> None:
    if answer == "501":
        proxy.rule = lambda request: "501" if request.method == "PUT" and "/.probe/" in request.path else None
    else:
        proxy.ignore_conditions = True
    assert same_rows(open_feature_set(machine("reader"), "street", "train"))
    writer = FeatureWriter(open_feature_set(machine("writer"), "street", "train").path)
    with pytest.raises(ConflictError, match=r"ignores or refuses If-None-Match or If-Match.*local folder"):
        writer.claim(0)
    assert not [key for key in objects(machine()) if "probe" in key]


def test_a_store_that_is_not_there_is_named(machine: OpenStore) -> None:
    machine()
    with pytest.raises(NotFoundError, match=f"no store at '{URL}'.*precompute"):
        Store.open(URL)


def test_pruning_in_a_bucket_is_refused(machine: OpenStore) -> None:
    with pytest.raises(InputError, match=r"is in a bucket.*server's own tool"):
        prune_candidates(machine())


@pytest.mark.usefixtures("full")
def test_a_child_process_opens_the_mirror_by_its_folder(machine: OpenStore) -> None:
    store = machine("one", 5000)
    opened = Store.open(store.root)
    assert opened.name == URL
    assert same_rows(open_feature_set(opened, "street", "train"))


@pytest.mark.usefixtures("full")
def test_a_damaged_copy_of_the_index_is_fetched_again(machine: OpenStore) -> None:
    path = open_feature_set(machine("reader"), "street", "train").path
    for name in ("index/time_ms/c/0", "source/c/0", "slow/zarr.json"):
        (path / name).write_bytes((path / name).read_bytes()[:-1] + b"x")
    (path / "index/video/c/0").unlink()
    assert same_rows(open_feature_set(machine("reader"), "street", "train"))


@pytest.mark.usefixtures("full")
def test_an_outage_is_not_damage(machine: OpenStore, proxy: FaultProxy) -> None:
    features = open_feature_set(machine("reader"), "street", "train")
    proxy.rule = lambda request: "500" if "/slow/c/1/" in request.path else None
    with pytest.raises(StalError, match="failed 6 times") as raised:
        verify_feature_set(features.path)
    assert not isinstance(raised.value, DamagedError)
    with pytest.raises(StalError, match="failed 6 times"):
        CliRunner().invoke(cache, ["verify", str(features.path.parents[3]), "--repair"], catch_exceptions=False)
    proxy.rule = lambda request: None
    assert features.done.all()
    proxy.rule = lambda request: "flip" if "/slow/c/1/" in request.path else None
    assert [item.shard for item in verify_feature_set(features.path)] == [1]
