"""Looking after feature sets: coverage, comparing, copying, exporting."""

import json
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from cache import h5
from cache.feature_store import FeatureSet, FeatureWriter, ShardClaim
from cache.feature_store.manage.copy import copy_feature_set
from cache.feature_store.manage.diff import diff_feature_sets
from cache.feature_store.manage.hdf5 import export_hdf5, import_hdf5
from cache.spec import FeatureSpec
from cache.split_store import load_split, publish_split
from cache.store import Store
from stal_data.errors import ConflictError, InputError, StalError
from stal_data.sealed import seal_file
from tests.cache.cache_command import run
from tests.cache.conftest import WriteSet, write_rows
from tests.cache.samples import LAYOUTS, Layout, make_split, with_layout


def content(root: Path) -> dict[str, bytes]:
    return {str(file.relative_to(root)): file.read_bytes() for file in root.rglob("*") if file.is_file()}


def flip(path: Path, offset: int = 0) -> None:
    changed = bytearray(path.read_bytes())
    changed[offset] ^= 1
    path.write_bytes(changed)


# info


def test_info_names_the_missing_key_frames_and_compares_with_the_published_split(
    store: Store, write_set: WriteSet, frames_root: Path
) -> None:
    features = write_set(10, shards=[0, 2])
    shown = json.loads(run("info", store.root, features.id).stdout)
    assert shown["num_missing"] == 4
    assert shown["missing"] == [f"vidéo 1,{second:04d}" for second in range(4)]
    assert shown["num_in_set_only"] is None  # nothing is published
    publish_split(store, make_split(frames_root))
    shown = json.loads(run("info", store.root, features.id).stdout)
    assert (shown["num_in_set_only"], shown["num_in_published_split_only"]) == (10, 9)
    assert shown["in_published_split_only"][0] == "v0,0000"


def test_an_id_on_two_splits_needs_the_split(store: Store, write_set: WriteSet) -> None:
    features = write_set(3)
    write_set(3, split="test")
    with pytest.raises(InputError, match="street/test, street/train; choose with --dataset and --split"):
        run("info", store.root, features.id)
    assert json.loads(run("info", store.root, features.id, "--split", "test").stdout)["split"] == "test"


@pytest.mark.parametrize(
    "damage",
    [
        lambda root: (root / "vit/zarr.json").unlink(),
        lambda root: (root / "zarr.json").write_bytes(b"\xff{"),
        lambda root: (root / "zarr.json").write_text("[" * 100_000),
        lambda root: _set_attribute(root, "num_rows", "ten"),
        lambda root: _set_attribute(root, "shapes", [3]),
        lambda root: _set_attribute(root, "spec", {"clip": 3}),
        lambda root: _set_attribute(root, "rows_per_shard", 0),
    ],
)
def test_ls_shows_sets_that_cannot_be_opened_and_the_rest(
    store: Store, write_set: WriteSet, damage: Callable[[Path], object]
) -> None:
    features, sound = write_set(3), write_set(3, split="test")
    damage(features.path)
    shown = run("ls", store.root)
    assert shown.exit_code == 0
    assert f"cannot be opened: street/train/{features.id}: " in shown.stdout
    assert re.search(rf"street/test +{sound.id} .* 3/3 ", shown.stdout)


def _set_attribute(root: Path, name: str, value: object) -> None:
    group = json.loads((root / "zarr.json").read_text())
    group["attributes"][name] = value
    (root / "zarr.json").write_text(json.dumps(group))


# verify


def test_verify_names_key_frames_and_the_command_that_computes_them_again(store: Store, write_set: WriteSet) -> None:
    features = write_set(10)
    flip(features.path / "slow/c/1/0/0/0")
    with pytest.raises(InputError) as error:
        run("verify", store.root, "--repair")
    text = str(error.value)
    assert f"street/train/{features.id}, shard 1: vidéo 1,0000: The shard" in text
    assert (
        f"stal-cli precompute DATASET --split train --store {store.root} --backbone slowfast:tiny=random:1 "
        "--backbone vit:tiny=VIT_WEIGHTS --view identity --dtype float32; VIT_WEIGHTS is the file of the tiny weights "
        "sha256:ab12; DATASET is the folder of the data set"
    ) in text
    assert FeatureSet(features.path).done.tolist() == [True] * 4 + [False] * 4 + [True] * 2


def test_verify_goes_on_after_a_set_that_cannot_be_opened(store: Store, write_set: WriteSet) -> None:
    broken, sound = write_set(3), write_set(3, split="test")
    flip(broken.path / "index/time_ms/c/0")
    with pytest.raises(InputError, match=rf"street/train/{broken.id}: The array .*index/time_ms' does not read"):
        run("verify", store.root)
    assert f"street/test/{sound.id}: 3 rows checked" in run("verify", store.root, "--split", "test").stdout


# diff


@pytest.mark.parametrize("layout", LAYOUTS)
def test_diff_tells_spec_rows_and_media_apart(
    write_set: WriteSet, spec: FeatureSpec, tmp_path: Path, layout: Layout
) -> None:
    spec = with_layout(spec, layout)
    a = write_set(10, of=spec)
    assert diff_feature_sets(a.path, a.path).same
    b = write_rows(Store.open(tmp_path / "b", create=True), replace(spec, decoder="pillow-2"), 8, shards=[0])
    found = diff_feature_sets(a.path, b.path)
    assert found.spec == ("decoder: pillow-1 / pillow-2",)
    assert [str(key) for key in found.only_in_a] == ["vidéo 2,0000", "vidéo 2,0001"]
    assert len(found.not_computed) == 4
    # Fewer rows draw other windows, so the rows differ by their media; row 0 is zeros in both.
    assert found.equal + len(found.different) == 4
    c = write_rows(Store.open(tmp_path / "c", create=True), spec, 10, seed=1)
    found = diff_feature_sets(a.path, c.path)
    assert (len(found.different), found.other_media, found.equal) == (9, (), 1)  # row 0 is zeros in both
    shown = run("diff", a.path, c.path)
    assert shown.exit_code == 1
    assert "different rows: 9: vidéo 0,0001; vidéo 0,0002" in shown.stdout
    assert run("diff", a.path, a.path).exit_code == 0


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_rows_that_differ_by_the_order_of_sums_count_as_equal(
    write_set: WriteSet, spec: FeatureSpec, tmp_path: Path, dtype: str
) -> None:
    spec = replace(spec, dtype=dtype)
    a = write_set(10, of=spec)
    stores = [Store.open(tmp_path / name, create=True) for name in ("near", "far")]
    near = write_rows(stores[0], spec, 10, moved=5e-6)
    far = write_rows(stores[1], spec, 10, moved=2e-3)
    found = diff_feature_sets(a.path, near.path)
    assert (len(found.rounded), found.equal, found.same) == (9, 1, True)  # row 0 is zeros in both
    shown = run("diff", a.path, near.path)
    assert shown.exit_code == 0
    assert "rows equal up to the order of sums: 9: vidéo 0,0001" in shown.stdout
    found = diff_feature_sets(a.path, far.path)
    assert (len(found.different), found.rounded, found.same) == (9, (), False)
    assert copy_feature_set(a.path, stores[0]).present == 10
    with pytest.raises(ConflictError, match="9 rows of"):
        copy_feature_set(a.path, stores[1])


def test_no_bound_is_promised_for_autocast(store: Store, spec: FeatureSpec, tmp_path: Path) -> None:
    spec = replace(spec, autocast="bf16")
    a, b = write_rows(store, spec, 4), write_rows(Store.open(tmp_path / "b", create=True), spec, 4, moved=5e-6)
    assert not diff_feature_sets(a.path, b.path).rounded


# copy


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_copy_is_the_same_bytes_and_brings_the_split(
    store: Store, write_set: WriteSet, spec: FeatureSpec, frames_root: Path, tmp_path: Path, layout: Layout
) -> None:
    spec = with_layout(spec, layout)
    features = write_set(10, of=spec, shards=[0, 2])
    publish_split(store, make_split(frames_root))
    shown = run("copy", store.root, tmp_path / "other").stdout
    assert f"street/train/{features.id}: 6 rows copied, 0 there before, 4 are not computed in the source\n" in shown
    other = Store.open(tmp_path / "other")
    copied = other.features_dir("street", "train") / features.id
    assert content(copied) == content(features.path)
    assert load_split(other, "street", "train").digest == load_split(store, "street", "train").digest
    write_set(10, of=spec, shards=[1])
    assert "4 rows copied, 6 there before" in run("copy", store.root, tmp_path / "other", "--set", features.id).stdout
    assert content(copied) == content(features.path)


def test_a_copy_stops_at_damage_and_goes_on_after_the_repair(
    write_set: WriteSet, ten_rows: Path, tmp_path: Path
) -> None:
    features, other = write_set(10), Store.open(tmp_path / "other", create=True)
    shard = features.path / "vit/c/1/0/0/0"
    flip(shard)
    with pytest.raises(InputError, match="is damaged: the checksum of row 0"):
        copy_feature_set(features.path, other)
    shutil.copyfile(ten_rows / "vit/c/1/0/0/0", shard)
    result = copy_feature_set(features.path, other)
    assert (result.copied, result.present) == (6, 4)


def test_a_copy_over_other_rows_or_another_split_is_refused(
    store: Store, write_set: WriteSet, frames_root: Path, tmp_path: Path, spec: FeatureSpec
) -> None:
    features, other = write_set(10), Store.open(tmp_path / "other", create=True)
    write_rows(other, spec, 10, seed=1)
    with pytest.raises(ConflictError, match=r"9 rows of .* differ from .*first vidéo 0,0001"):
        copy_feature_set(features.path, other)
    publish_split(store, make_split(frames_root))
    publish_split(other, make_split(frames_root, label=2))
    with pytest.raises(ConflictError, match="publishes street/train with another content"):
        run("copy", store.root, other.root)


@pytest.fixture
def finished_before_the_claim(monkeypatch: pytest.MonkeyPatch, store: Store, spec: FeatureSpec) -> None:
    """Somebody else fills a shard between the look whether it is missing and the claim."""
    claim = FeatureWriter.claim_or_refuse

    def late(self: FeatureWriter, shard: int) -> ShardClaim:
        monkeypatch.setattr(FeatureWriter, "claim_or_refuse", claim)
        write_rows(Store.open(self.path.parents[3]), spec, 10, shards=[shard])
        monkeypatch.setattr(FeatureWriter, "write_shard", refuse)
        return claim(self, shard)

    def refuse(self: FeatureWriter, *arguments: object) -> None:
        raise AssertionError("the shard is written again")

    monkeypatch.setattr(FeatureWriter, "claim_or_refuse", late)


@pytest.mark.usefixtures("finished_before_the_claim")
def test_a_shard_that_somebody_finished_meanwhile_is_not_copied_again(write_set: WriteSet, tmp_path: Path) -> None:
    result = copy_feature_set(write_set(10, shards=[1]).path, Store.open(tmp_path / "other", create=True))
    assert (result.copied, result.present, result.missing) == (0, 4, 6)


def test_a_shard_that_somebody_finished_meanwhile_is_not_imported_again(
    write_set: WriteSet, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    export_hdf5(write_set(10, shards=[1]).path, tmp_path / "set.h5")
    request.getfixturevalue("finished_before_the_claim")
    path = import_hdf5(tmp_path / "set.h5", Store.open(tmp_path / "other", create=True))
    assert FeatureSet(path).done.tolist() == [False] * 4 + [True] * 4 + [False] * 2


# export and import


@pytest.mark.parametrize(("dtype", "layout"), [("float16", "pooled"), ("float32", "pooled"), ("float16", "full")])
def test_an_exported_set_comes_back_as_the_same_bytes(
    store: Store, write_set: WriteSet, spec: FeatureSpec, tmp_path: Path, dtype: str, layout: Layout
) -> None:
    features = write_set(10, of=with_layout(replace(spec, dtype=dtype), layout), shards=[0, 2])
    file, other = tmp_path / "train.h5", tmp_path / "other"
    assert "6 rows" in run("export", store.root, features.id, "--output", file).stdout
    with h5py.File(file) as opened:
        assert (opened["slow"][9] == features.read([9])["slow"][0]).all()
    for _ in range(2):  # the second time there is nothing left to do
        shown = run("import", file, other).stdout
        assert f"street/train/{features.id}: 6 of 10 rows" in shown
        assert content(Store.open(other).features_dir("street", "train") / features.id) == content(features.path)


@pytest.fixture
def exported(ten_rows: Path, tmp_path: Path) -> Path:
    export_hdf5(ten_rows, tmp_path / "set.h5")
    return tmp_path / "set.h5"


def _change(file: h5py.File, name: str, value: object) -> None:
    file[name][...] = value


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: _change(f, "vit", f["vit"][:] + 1), r"Row 0 \(vidéo 0,0000\) in .* is damaged: its digest differs"),
        (lambda f: _change(f, "digest", 0), "its digest differs"),
        (lambda f: _change(f, "windows", f["windows"][:] + 1), "its digest differs"),
        (lambda f: f.pop("fast"), "lacks the dataset 'fast'"),
        (lambda f: _link(f), "lacks the dataset 'fast'"),
        (lambda f: f.attrs.modify("version", 9), "version 9, not stal-feature-set version 2"),
        (
            lambda f: _change(f, "manifest", re.sub("pillow-1", "pillow-9", f["manifest"].asstr()[()])),
            "The spec in .* was edited",
        ),
    ],
    ids=["values", "digest", "window", "missing", "link", "version", "spec"],
)
def test_a_changed_export_is_refused(
    exported: Path, store: Store, change: Callable[[h5py.File], object], message: str
) -> None:
    with h5py.File(exported, "r+") as file:
        change(file)
    with pytest.raises(InputError, match="its sha256 is not the one that it carries"):
        import_hdf5(exported, store)
    seal_file(exported)
    with pytest.raises(StalError, match=message):
        import_hdf5(exported, store)


def _link(file: h5py.File) -> None:
    file.move("fast", "elsewhere")
    file["fast"] = h5py.SoftLink("/elsewhere")


def test_a_flipped_bit_in_an_export_is_noticed(exported: Path, store: Store) -> None:
    with h5py.File(exported) as file:
        offset = file["vit"].id.get_chunk_info(7).byte_offset
    flip(exported, offset)
    with pytest.raises(InputError, match=r"set.h5' is damaged: its sha256"):
        import_hdf5(exported, store)


def test_an_export_without_a_checksum_is_imported_and_must_be_complete(exported: Path, store: Store) -> None:
    """As earlier versions wrote them."""
    exported.write_bytes(exported.read_bytes()[512:])
    damaged = exported.with_name("cut.h5")
    damaged.write_bytes(exported.read_bytes()[:-10])
    with pytest.raises(InputError, match=r"cut.h5' is damaged: OSError.*truncated file.*Export the set again"):
        run("import", damaged, store.root)
    assert FeatureSet(import_hdf5(exported, store)).complete


def test_an_export_without_a_checksum_on_which_hdf5_never_ends_is_refused(
    exported: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = bytearray(exported.read_bytes()[512:])
    heap = content.rindex(b"GCOL")  # where texts of any length lie
    content[heap + 16 : heap + 2048] = bytes(2032)
    exported.write_bytes(content)
    monkeypatch.setattr(h5, "_OLD_FILE_S", 5)
    with pytest.raises(InputError, match=r"set.h5' is damaged: HDF5 did not end reading it. Export the set again"):
        import_hdf5(exported, store)


def test_a_reader_of_old_files_ends_by_itself(tmp_path: Path) -> None:
    code = "import itertools, h5py, cache.h5_read_all as m; h5py.File = lambda *_: all(itertools.repeat(1)); m.main()"
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "set.h5", "5"], check=False)
    assert done.returncode in (-signal.SIGXCPU, -signal.SIGKILL)


def test_an_import_of_no_export_makes_no_store(tmp_path: Path) -> None:
    file, other = tmp_path / "set.h5", tmp_path / "other"
    assert run("import", file, other).exit_code == 2
    file.write_bytes(b"text")
    with pytest.raises(InputError, match=r"is damaged or no feature-set file"):
        run("import", file, other)
    assert not other.exists()


def test_an_error_of_the_store_is_not_taken_for_one_of_the_imported_file(exported: Path, store: Store) -> None:
    """A file stands where a folder must be made."""
    (store.root / "features").write_text("")
    with pytest.raises(OSError, match="store/features"):
        run("import", exported, store.root)
    (store.root / "features").unlink()
    import_hdf5(exported, store)
    (damaged := exported.with_name("cut.h5")).write_bytes(exported.read_bytes()[:-10])
    with pytest.raises(InputError, match=r"cut.h5' is damaged: its sha256"):
        import_hdf5(damaged, store)


def test_an_import_over_other_frames_is_refused(exported: Path, store: Store, spec: FeatureSpec) -> None:
    write_rows(store, spec, 8)
    with pytest.raises(ConflictError, match="key frames: 10 / 8"):
        import_hdf5(exported, store)
    assert np.array_equal(FeatureSet(store.features_dir("street", "train") / spec.id).done, np.ones(8, bool))
