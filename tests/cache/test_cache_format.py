"""The format is what docs/cache-format.md says: read by a plain reader, by zarr-python and by xarray."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import zarr

from cache.feature_store import FeatureSet
from cache.spec import FeatureSpec, Layout
from stal_data.keyframes import KeyFrame
from tests.cache.plain_reader import COLUMNS, PlainSet, Refused
from tests.cache.samples import SHAPES

WriteSet = Callable[..., FeatureSet]


@pytest.mark.parametrize(("dtype", "layout"), [("float16", "pooled"), ("float32", "pooled"), ("float16", "full")])
def test_a_reader_written_from_the_page_reads_the_same_rows(
    write_set: WriteSet, spec: FeatureSpec, dtype: str, layout: Layout
) -> None:
    features = write_set(10, of=replace(spec, dtype=dtype, layout=layout), shards=[0, 2])
    plain = PlainSet(features.path)
    for row in (0, 3, 8, 9):
        batch = features.read([row])
        values = plain.read(row)
        assert list(values) == list(SHAPES)
        for name, array in values.items():
            assert array.tobytes() == getattr(batch, name)[0].tobytes()
        assert KeyFrame(plain.videos[row], int(plain.timestamps[row])) == features.key_frames[row]
    for row in (4, 10, 11):  # not computed, padding
        with pytest.raises(Refused, match="is not done"):
            plain.read(row)


@pytest.mark.parametrize(
    ("file", "offset", "message"),
    [
        ("vit/zarr.json", 20, "digest of vit/zarr.json"),
        ("source/c/0", 0, "crc32c of"),
        ("slow/c/0/0/0/0", 5, "crc32c of"),
        ("slow/c/0/0/0/0", -20, "crc32c of"),
        ("digest/c/0", 3, "crc32c of"),
    ],
)
def test_the_plain_reader_refuses_what_the_page_refuses(
    write_set: WriteSet, file: str, offset: int, message: str
) -> None:
    path = write_set(4).path
    content = bytearray((path / file).read_bytes())
    content[offset] ^= 1
    (path / file).write_bytes(content)
    with pytest.raises(Refused, match=message):
        PlainSet(path).read(0)


def test_the_plain_reader_refuses_changed_attributes(write_set: WriteSet) -> None:
    path = write_set(4).path
    text = (path / "zarr.json").read_text()
    (path / "zarr.json").write_text(text.replace('"num_rows": 4', '"num_rows": 3'))
    with pytest.raises(Refused, match="digest of the attributes"):
        PlainSet(path)


def test_the_plain_reader_refuses_a_shard_from_elsewhere(write_set: WriteSet) -> None:
    path = write_set(8).path
    (path / "vit/c/0/0/0/0").write_bytes((path / "vit/c/1/0/0/0").read_bytes())
    with pytest.raises(Refused, match="digest of row 1"):
        PlainSet(path).read(1)


def test_zarr_python_reads_every_array_and_column(write_set: WriteSet) -> None:
    features = write_set(10)
    group = zarr.open_group(features.path, mode="r", use_consolidated=False)
    plain = PlainSet(features.path)
    batch = features.read(range(10))
    for name in SHAPES:
        assert group[name][:10].tobytes() == getattr(batch, name).tobytes()
        assert not group[name][10:].any()
    columns = {"index/timestamp": plain.timestamps, "index/frame_start": plain.starts, "index/frame_end": plain.ends}
    for name, values in {**columns, "source": plain.sources}.items():
        assert group[name][:].tobytes() == values.tobytes()
    assert group["index/video"][:].tolist() == plain.videos
    assert (group["digest"][:10] == features.marks().digests_K).all()
    assert {name for name, _ in group.members(max_depth=None)} == {*SHAPES, *COLUMNS}


@pytest.mark.parametrize(("layout", "axes"), [("pooled", ()), ("full", ("vit_time",))])
def test_xarray_opens_a_set_with_named_axes(
    write_set: WriteSet, spec: FeatureSpec, layout: Layout, axes: tuple[str, ...]
) -> None:
    xarray = pytest.importorskip("xarray")
    features = write_set(10, of=replace(spec, layout=layout))
    with xarray.open_zarr(features.path, consolidated=False) as opened:
        assert opened["vit"].dims == ("row", "vit_channel", *axes, "vit_y", "vit_x")
        assert opened["vit_moments"].dims == ("row", "moment", "vit_channel")
        batch = features.read(range(10))
        for name in SHAPES:
            assert np.asarray(opened[name][:10]).tobytes() == getattr(batch, name).tobytes()
    with xarray.open_zarr(features.path, group="index", consolidated=False) as index:
        assert index["video"][:10].values.tolist() == [key.video for key in features.key_frames]
