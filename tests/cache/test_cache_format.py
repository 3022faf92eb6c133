"""The format is what docs/cache-format.md says: read by a plain reader, by zarr-python and by xarray."""

import hashlib
import json
import struct
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import zarr

from cache.backbones.load import load_backbone
from cache.backbones.slowfast.model import SlowFastConfig
from cache.backbones.slowfast.presets import PRESETS as SLOWFAST_PRESETS
from cache.backbones.vit.model import ViTConfig
from cache.backbones.weights import save_backbone
from cache.feature_store import FeatureSet
from cache.spec import BackboneSpec, ClipSpec, FeatureSpec
from stal_data.keyframes import KeyFrame
from tests.cache.plain_reader import COLUMNS, PlainSet, Refused
from tests.cache.samples import SHAPES, Layout, with_layout

WriteSet = Callable[..., FeatureSet]


@pytest.mark.parametrize(("dtype", "layout"), [("float16", "pooled"), ("float32", "pooled"), ("float16", "full")])
def test_a_reader_written_from_the_page_reads_the_same_rows(
    write_set: WriteSet, spec: FeatureSpec, dtype: str, layout: Layout
) -> None:
    features = write_set(10, of=with_layout(replace(spec, dtype=dtype), layout), shards=[0, 2])
    plain = PlainSet(features.path)
    for row in (0, 3, 8, 9):
        batch = features.read([row])
        values = plain.read(row)
        assert list(values) == list(SHAPES)
        for name, array in values.items():
            assert array.tobytes() == batch[name][0].tobytes()
        assert KeyFrame(plain.videos[row], int(plain.times_ms[row])) == features.key_frames[row]
    for row in (4, 10, 11):  # not computed, padding
        with pytest.raises(Refused, match="is not done"):
            plain.read(row)


def test_the_page_names_every_field_of_a_spec() -> None:
    page = (Path(__file__).parents[2] / "docs/cache-format.md").read_text()
    for described in (FeatureSpec, ClipSpec, BackboneSpec, SlowFastConfig, ViTConfig):
        for field in fields(described):
            assert f"`{field.name}`" in page, f"{described.__name__}.{field.name}"


def test_the_digest_of_weights_is_what_the_page_says(tmp_path: Path) -> None:
    loaded = load_backbone("slowfast", weights="random:0", preset="tiny")
    file = tmp_path / "slowfast.safetensors"
    save_backbone(file, loaded.model, kind="slowfast", preset="tiny", config=SLOWFAST_PRESETS["tiny"], provenance={})
    content = file.read_bytes()
    (size,) = struct.unpack_from("<Q", content)
    header, body = json.loads(content[8 : 8 + size]), content[8 + size :]
    digest = hashlib.sha256()
    for name in sorted(header.keys() - {"__metadata__"}):
        dtype = {"F32": "torch.float32", "I64": "torch.int64"}[header[name]["dtype"]]
        begin, end = header[name]["data_offsets"]
        digest.update(f"{json.dumps(name)} {dtype} {header[name]['shape']}\n".encode() + body[begin:end])
    assert load_backbone("slowfast", weights=str(file)).spec.weights == f"sha256:{digest.hexdigest()}"


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
        assert group[name][:10].tobytes() == batch[name].tobytes()
        assert not group[name][10:].any()
    columns = {"index/time_ms": plain.times_ms, "index/frame_start": plain.starts, "index/frame_end": plain.ends}
    for name, values in {**columns, "source": plain.sources}.items():
        assert group[name][:].tobytes() == values.tobytes()
    assert group["index/video"][:].tolist() == plain.videos
    assert (group["digest"][:10] == features.marks().digests_K).all()
    assert {name for name, _ in group.members(max_depth=None)} == {*SHAPES, *COLUMNS, "index/time_ms"}


@pytest.mark.parametrize(("layout", "axes"), [("pooled", ()), ("full", ("vit_time",))])
def test_xarray_opens_a_set_with_named_axes(
    write_set: WriteSet, spec: FeatureSpec, layout: Layout, axes: tuple[str, ...]
) -> None:
    xarray = pytest.importorskip("xarray")
    features = write_set(10, of=with_layout(spec, layout))
    with xarray.open_zarr(features.path, consolidated=False) as opened:
        assert opened["vit"].dims == ("row", "vit_channel", *axes, "vit_y", "vit_x")
        assert opened["vit_moments"].dims == ("row", "moment", "vit_channel")
        batch = features.read(range(10))
        for name in SHAPES:
            assert np.asarray(opened[name][:10]).tobytes() == batch[name].tobytes()
    with xarray.open_zarr(features.path, group="index", consolidated=False) as index:
        assert index["video"][:10].values.tolist() == [key.video for key in features.key_frames]
