"""Writing and reading feature sets; zarr-python is the reference reader."""

import multiprocessing
import os
import pickle
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from cache.feature_store import (
    FeatureBatch,
    FeatureSet,
    FeatureWriter,
    ShardClaim,
    open_feature_set,
    reader,
    shards,
)
from cache.feature_store.errors import DamagedError
from cache.feature_store.layout import checksum, shard_path
from cache.feature_store.writer import balanced_rows_per_shard
from cache.spec import FeatureSpec
from cache.store import Store
from stal_data.errors import ConflictError, InputError, NotFoundError, StalError
from stal_data.keyframes import KeyFrame
from tests.cache.samples import (
    LAYOUTS,
    SHAPES,
    SHAPES_OF,
    SLOWFAST,
    VIT,
    Layout,
    make_features,
    make_index,
    with_layout,
)

WriteSet = Callable[..., FeatureSet]


def as_dict(batch: FeatureBatch) -> dict[str, bytes]:
    return {name: values.tobytes() for name, values in batch.items()}


@pytest.mark.parametrize(("dtype", "layout"), [("float16", "pooled"), ("float32", "pooled"), ("float16", "full")])
def test_every_array_equals_zarr_pythons_view_byte_by_byte(
    write_set: WriteSet, spec: FeatureSpec, dtype: str, layout: Layout
) -> None:
    features = write_set(10, of=with_layout(replace(spec, dtype=dtype), layout))
    group = zarr.open_group(features.path, mode="r")
    batch = features.read(range(10))
    for name in SHAPES:
        reference = np.asarray(group[name][:10])
        assert batch[name].dtype == reference.dtype == features.manifest.dtype(name)
        assert batch[name].tobytes() == reference.tobytes()
    assert group["index/video"][:10].tolist() == [key.video for key in features.key_frames]
    assert group["index/time_ms"][:10].tolist() == [key.time_ms for key in features.key_frames]
    assert (group["source"][:10] == features.index.sources_K).all()
    # Padded to whole shards of 4; the padding is not done.
    assert group["done"][:].tolist() == [1] * 10 + [0] * 2
    assert group["vit"].shape == (12, *SHAPES_OF[layout]["vit"])
    assert group["vit"].shards == (4, *SHAPES_OF[layout]["vit"])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_shard_files_are_those_that_zarr_python_writes(
    write_set: WriteSet, spec: FeatureSpec, tmp_path: Path, layout: Layout
) -> None:
    features = write_set(10, of=with_layout(spec, layout))
    other = shutil.copytree(features.path, tmp_path / "other")
    for name in SHAPES:
        ours = {path: path.read_bytes() for path in (features.path / name / "c").rglob("*") if path.is_file()}
        assert len(ours) == 3
        array = zarr.open_array(other / name, mode="r+").with_config({"write_empty_chunks": True})
        values = array[:]
        shutil.rmtree(other / name / "c")
        array[:] = values
        for path, content in ours.items():
            assert (other / path.relative_to(features.path)).read_bytes() == content


def test_a_shard_takes_its_rows_as_they_come(store: Store, spec: FeatureSpec, write_set: WriteSet) -> None:
    arrays, whole = make_features(10), write_set(10)
    writer = FeatureWriter.open(
        store, dataset="street", split="test", spec=spec, index=make_index(10), shapes=SHAPES, rows_per_shard=4
    )

    def fill(claim: ShardClaim, *parts: range, finish: bool) -> None:
        with writer.output(claim) as output, claim:
            for rows in parts:
                output.add(rows, {name: values[rows.start : rows.stop] for name, values in arrays.items()})
            if finish:
                output.finish()

    fill(writer.claim(0), range(0, 3), finish=False)
    assert writer.pending() == [0, 1, 2]
    assert not [path for path in writer.path.rglob("*") if path.parent.name == "0" and path.is_file()]
    fill(writer.claim(0), range(0, 1), range(1, 4), finish=True)
    fill(writer.claim(2), range(8, 9), range(9, 10), finish=True)
    for name in SHAPES:
        for shard in (0, 2):
            file = shard_path(Path(), writer.manifest, name, shard)
            assert (writer.path / file).read_bytes() == (whole.path / file).read_bytes()
    assert FeatureSet(writer.path).done.tolist() == [True] * 4 + [False] * 4 + [True] * 2


def test_half_precision_rounds_the_maps_and_keeps_the_moments(write_set: WriteSet, spec: FeatureSpec) -> None:
    batch, arrays = write_set(10, of=replace(spec, dtype="float16")).read(range(10)), make_features(10)
    assert (batch["vit"] == arrays["vit"].astype(np.float16)).all()
    assert (batch["vit_moments"] == arrays["vit_moments"]).all()


@settings(max_examples=30)
@given(rows=st.lists(st.integers(0, 9), max_size=12))
def test_rows_come_in_the_order_asked_for(features_of_ten: FeatureSet, rows: list[int]) -> None:
    batch, arrays = features_of_ten.read(rows), make_features(10)
    for name, values in arrays.items():
        assert batch[name].tobytes() == values[rows].tobytes()


def test_buffers_are_filled_again_and_again_at_the_places_asked_for(features_of_ten: FeatureSet) -> None:
    arrays, buffer = make_features(10), features_of_ten.allocate(5)
    for rows, places in (([9, 0, 3], [4, 0, 2]), ([1, 1], [1, 3])):
        features_of_ten.read_into(rows, buffer, places)
    for name, values in arrays.items():
        assert buffer[name].tobytes() == values[[0, 1, 3, 1, 9]].tobytes()


@given(names=st.sets(st.sampled_from(sorted(SHAPES)), min_size=1))
def test_only_the_arrays_asked_for_are_read(features_of_ten: FeatureSet, names: set[str]) -> None:
    batch, arrays = features_of_ten.read([9, 0], names), make_features(10)
    assert {name: values.tobytes() for name, values in batch.items()} == {
        name: arrays[name][[9, 0]].tobytes() for name in names
    }


def test_an_array_that_a_set_lacks_is_refused(features_of_ten: FeatureSet) -> None:
    buffer = {**features_of_ten.allocate(1), "depth": np.zeros((1, 2), np.float32)}
    with pytest.raises(InputError, match="has no array 'depth'; it has slow, fast, vit, vit_moments"):
        features_of_ten.read_into([0], buffer)


@pytest.mark.parametrize("place", ["its bytes", "its checksum"])
def test_a_row_is_verified_against_the_checksums_of_arrays_that_are_not_read(write_set: WriteSet, place: str) -> None:
    features = write_set(10)
    path = shard_path(features.path, features.manifest, "vit", 0)
    content = bytearray(path.read_bytes())
    content[features.manifest.row_bytes("vit") - (1 if place == "its bytes" else 0)] ^= 1
    path.write_bytes(content)
    again = FeatureSet(features.path)
    with pytest.raises(DamagedError):
        again.read([0], ["vit"])
    if place == "its bytes":
        assert (again.read([0], ["slow"])["slow"] == make_features(10)["slow"][0]).all()
    else:
        with pytest.raises(DamagedError, match="its digest differs"):
            again.read([0], ["slow"])


def test_buffers_start_where_a_page_does(features_of_ten: FeatureSet) -> None:
    # Rows start a few bytes after a page; copied to a place 16 bytes after one, they arrive at a third of the speed.
    for values in features_of_ten.allocate(3).values():
        assert values.ctypes.data % reader.PAGE_BYTES == 0


@pytest.mark.parametrize(
    "change",
    [lambda v: v.astype(np.float64), lambda v: v[..., :1], lambda v: v[::2]],
    ids=["dtype", "shape", "not contiguous"],
)
def test_buffers_that_do_not_fit_are_refused(
    features_of_ten: FeatureSet, change: Callable[[np.ndarray], np.ndarray]
) -> None:
    buffer = features_of_ten.allocate(4)
    wrong = {**buffer, "vit": change(buffer["vit"])}
    with pytest.raises(InputError, match=r"buffer for 'vit' must be a writable.*float32 array of shape \[B, 5, 4, 5\]"):
        features_of_ten.read_into([0], wrong)


@pytest.mark.parametrize("places", [[4], [-1]])
def test_places_outside_the_buffer_are_refused(features_of_ten: FeatureSet, places: list[int]) -> None:
    with pytest.raises(InputError, match=rf"Places \[{places[0]}\] are not among 0 to 3 of the buffer for 'slow'"):
        features_of_ten.read_into([0], features_of_ten.allocate(4), places)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of os.fork, from Python 3.12 on
def test_a_forked_child_is_told_to_spawn(features_of_ten: FeatureSet) -> None:
    child = os.fork()
    if child == 0:
        try:
            features_of_ten.read([0])
        except StalError as error:
            os._exit(7 if "'spawn'" in str(error) else 1)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


@pytest.fixture
def features_of_ten(ten_rows: Path) -> FeatureSet:
    """Only for reading: the tests of this module share it."""
    return FeatureSet(ten_rows)


def test_a_set_holds_only_the_arrays_of_its_backbones(store: Store, spec: FeatureSpec) -> None:
    shapes = {name: SHAPES[name] for name in ("slow", "fast")}
    writer = FeatureWriter.open(
        store, dataset="street", split="test", spec=spec.of_kinds(["slowfast"]), index=make_index(3), shapes=shapes
    )
    arrays = {name: make_features(3)[name] for name in shapes}
    with writer.claim(0) as claim:
        with pytest.raises(InputError, match="'vit' is not part of the set"):
            writer.write_shard(claim, make_features(3))
        writer.write_shard(claim, arrays)
    features = open_feature_set(store, "street", "test")
    batch = features.read([2])
    assert batch.keys() == {"slow", "fast"}
    assert (batch["slow"] == arrays["slow"][2:]).all()
    assert not (features.path / "vit").exists()


@pytest.mark.parametrize("row", [-1, 10])
def test_rows_outside_the_split_are_refused(features_of_ten: FeatureSet, row: int) -> None:
    # Rows 10 and 11 are padding: they exist in the arrays.
    with pytest.raises(InputError, match=rf"Rows \[{row}\] are not among 0 to 9"):
        features_of_ten.read([0, row])


def test_rows_are_found_by_key_frame(features_of_ten: FeatureSet) -> None:
    assert [features_of_ten.row_of(key) for key in features_of_ten.key_frames] == list(range(10))
    with pytest.raises(NotFoundError, match="Key frame nobody,0003 is not in the feature set"):
        features_of_ten.row_of(KeyFrame("nobody", 3000))


def test_threads_share_a_set_also_when_files_are_evicted(
    features_of_ten: FeatureSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader, "max_mapped_files", lambda: len(SHAPES))  # 3 shards compete for the place of one
    arrays = make_features(10)

    def read(seed: int) -> bool:
        rows = np.random.default_rng(seed).integers(0, 10, 8)
        batch = features_of_ten.read(rows)
        return all(batch[name].tobytes() == values[rows].tobytes() for name, values in arrays.items())

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(read, range(100)))


def test_the_shard_that_was_read_longest_ago_is_closed_first(
    features_of_ten: FeatureSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader, "max_mapped_files", lambda: 2 * len(SHAPES))
    for row, opened in ((0, [0]), (4, [0, 1]), (1, [1, 0]), (8, [0, 2]), (0, [2, 0])):
        features_of_ten.read([row])
        assert list(features_of_ten._shards) == opened


def test_a_batch_over_many_shards_keeps_few_files_open(write_set: WriteSet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "max_mapped_files", lambda: 2 * len(SHAPES))
    features, most = write_set(10, rows_per_shard=1), 0

    def watch(row: NDArray[Any]) -> int:
        nonlocal most
        most = max(most, sum(str(features.path) in str(link) for link in open_files()))
        return checksum(row)

    monkeypatch.setattr(shards, "checksum", watch)
    assert (features.read(range(10)[::-1])["vit"] == make_features(10)["vit"][::-1]).all()
    assert 0 < most <= 3 * len(SHAPES)  # those of the two shards that are kept, and those being opened


def open_files() -> Iterator[Path]:
    for link in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # that of the folder itself
            yield link.readlink()


MAPS = """
import resource, sys
from cache.feature_store.open_files import max_mapped_files
soft, hard = map(int, sys.argv[1:])
resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
print(max_mapped_files(), resource.getrlimit(resource.RLIMIT_NOFILE)[0])
"""


@pytest.mark.parametrize(("soft", "hard", "files", "after"), [(64, 64, 8, 64), (64, 400, 50, 400)])
def test_the_limit_on_open_files_is_raised_as_far_as_the_system_allows(
    soft: int, hard: int, files: int, after: int
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", MAPS, str(soft), str(hard)], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == [str(files), str(after)]


def read_in_child(features: FeatureSet) -> dict[str, bytes]:
    return as_dict(features.read([9, 0]))


def test_a_set_that_was_read_travels_to_a_spawned_process(features_of_ten: FeatureSet) -> None:
    expected = as_dict(features_of_ten.read([9, 0]))
    assert as_dict(pickle.loads(pickle.dumps(features_of_ten)).read([9, 0])) == expected
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(read_in_child, (features_of_ten,)) == expected


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        (
            "vit",
            65520.0,
            r"Array 'vit', channel 3 of key frame vidéo 0,0002 is 65520; it does not fit float16 .*float32",
        ),
        ("slow", -1e6, r"'slow', channel 3 .* is -1e\+06; it does not fit"),
        ("vit", np.nan, r"'vit', channel 3 .* is nan; the backbone's output must be finite"),
        ("vit_moments", np.inf, r"'vit_moments', channel 1 .* is inf; .* must be finite"),
    ],
)
def test_values_that_do_not_fit_are_refused_and_leave_the_rows_undone(
    store: Store, spec: FeatureSpec, name: str, value: float, message: str
) -> None:
    writer = FeatureWriter.open(
        store,
        dataset="street",
        split="train",
        spec=replace(spec, dtype="float16"),
        index=make_index(4),
        shapes=SHAPES,
    )
    arrays = make_features(4)
    arrays[name][(2, 1, 1) if name == "vit_moments" else (2, 3, 0, 1)] = value
    with writer.claim(0) as claim, pytest.raises(InputError, match=message):
        writer.write_shard(claim, arrays)
    assert writer.pending() == [0]
    # 65504 is the largest float16, and values below 65520 round to it.
    arrays[name][:] = 65519
    with writer.claim(0) as claim:
        writer.write_shard(claim, arrays)


def test_moments_may_exceed_half_precision(store: Store, spec: FeatureSpec) -> None:
    half = replace(spec, dtype="float16")
    writer = FeatureWriter.open(store, dataset="d", split="s", spec=half, index=make_index(1), shapes=SHAPES)
    arrays = make_features(1)
    arrays["vit_moments"][:] = 1e9
    with writer.claim(0) as claim:
        writer.write_shard(claim, arrays)
    assert (open_feature_set(store, "d", "s").read([0])["vit_moments"] == np.float32(1e9)).all()


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"backbones": (replace(SLOWFAST, weights="random:2"), VIT)}, "slowfast.weights: random:2 / random:1"),
        ({"backbones": (SLOWFAST, replace(VIT, weights="sha256:cd34"))}, "vit.weights: sha256:cd34 / sha256:ab12"),
        ({"backbones": (SLOWFAST, replace(VIT, height=32))}, "vit.height: 32 / 48"),
        ({"decoder": "ffmpeg-7"}, "decoder: ffmpeg-7 / pillow-1"),
        ({"dtype": "float16"}, "dtype: float16 / float32"),
    ],
    ids=["weights", "weight digest", "resolution", "decoder", "dtype"],
)
def test_a_set_of_another_make_is_refused_by_its_fields(
    write_set: WriteSet, store: Store, spec: FeatureSpec, change: dict[str, object], field: str
) -> None:
    write_set(3)
    with pytest.raises(ConflictError, match=re.escape(f"{spec.id}: {field}.")):
        open_feature_set(store, "street", "train", spec=replace(spec, **change))


def test_a_set_that_does_not_exist_is_named(write_set: WriteSet) -> None:
    with pytest.raises(NotFoundError, match="There is no feature set at"):
        FeatureSet(write_set(10).path.parent / "none")


def test_shards_are_of_nearly_equal_size() -> None:
    assert [balanced_rows_per_shard(count) for count in (1, 64, 65, 130, 1000)] == [1, 64, 33, 44, 63]
