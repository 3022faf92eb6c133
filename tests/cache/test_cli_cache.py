"""The precompute and cache commands on a data set folder without annotations: two splits of PNG frames."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from cache.feature_store import FeatureSet, FeatureWriter, list_feature_sets
from cache.spec import FeatureSpec
from cache.split_store import load_split
from cache.store import Store
from cli.commands.cache import cache
from cli.commands.precompute import precompute
from stal_data.errors import ConflictError, InputError, NotFoundError
from tests.cache.conftest import write_rows

TINY = ("--slowfast", "random:0", "--slowfast-preset", "tiny")


@pytest.fixture
def dataset(frames_root: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "dataset.yaml").write_text(
        f"name: street\nmedia: {{kind: frames, root: {frames_root}}}\nsplits: {{train: {{videos: [v0, v1]}}}}\n"
    )
    return folder


@pytest.fixture
def store_path(tmp_path: Path) -> Path:
    return tmp_path / "shared" / "store"


def run(dataset: Path, store: Path | str, *options: str) -> Result:
    arguments = [str(dataset), "--split", "train", "--store", str(store), *options]
    return CliRunner().invoke(precompute, arguments, catch_exceptions=False)


def test_precompute_makes_the_store_and_tells_its_progress_in_plain_lines(dataset: Path, store_path: Path) -> None:
    result = run(dataset, store_path, *TINY, "--view", "identity", "--view", "hflip", "--rows-per-shard", "4")
    assert result.exit_code == 0
    plain, flipped = list_feature_sets(Store.open(store_path))
    assert {plain.spec.view, flipped.spec.view} == {"identity", "hflip"}
    assert plain.complete
    assert f"street/train/{plain.id}: 6 rows, {plain.spec.view}" in result.stdout
    assert "checking frames: 6 of 6" in result.stderr
    assert "computing features: 0 of 6 key frames done" in result.stderr
    assert re.search(r"computing features: 6 of 6, \d+\.\d clips/s", result.stderr)
    assert len(load_split(Store.open(store_path), "street", "train").key_frames) == 6

    again = run(dataset, store_path, *TINY)
    assert "computing features: 6 of 6 key frames done" in again.stderr


def test_precompute_refuses_what_it_cannot_do(dataset: Path, store_path: Path) -> None:
    nothing = run(dataset, store_path)
    assert nothing.exit_code == 2
    assert "at least one backbone: --slowfast, --vit or --backbone" in nothing.stderr
    stray = run(dataset, store_path, *TINY, "--vit-preset", "tiny")
    assert stray.exit_code == 2
    assert "--vit-preset 'tiny' needs --vit WEIGHTS" in stray.stderr
    with pytest.raises(NotFoundError, match=r"no\.safetensors does not exist"):
        run(dataset, store_path, "--slowfast", str(dataset / "no.safetensors"))
    with pytest.raises(NotFoundError, match="Did you mean 'tiny'"):
        run(dataset, store_path, "--slowfast", "random:0", "--slowfast-preset", "tinny")
    with pytest.raises(InputError, match=r"'gs://bucket/store' is neither a folder nor s3://"):
        run(dataset, "gs://bucket/store", *TINY)


def test_a_run_time_error_is_one_line_and_exit_code_1(dataset: Path, store_path: Path) -> None:
    store_path.parent.mkdir()
    store_path.write_text("")
    command = [sys.executable, "-m", "cli.main", "precompute", str(dataset), "--split", "train"]
    done = subprocess.run(
        [*command, "--store", str(store_path), *TINY],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr == f"Error: The store '{store_path}' is a file; it must be a folder.\n"


@pytest.fixture
def filled(store: Store, ten_rows: Path) -> FeatureSet:
    target = store.features_dir("street", "train") / ten_rows.name
    target.parent.mkdir(parents=True)
    # A copy: the tests damage it.
    for file in ten_rows.rglob("*"):
        copy = target / file.relative_to(ten_rows)
        if file.is_file():
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(file.read_bytes())
    return FeatureSet(target)


def test_ls_and_info_show_what_there_is(store: Store, filled: FeatureSet) -> None:
    listed = CliRunner().invoke(cache, ["ls", str(store.root)], catch_exceptions=False)
    [line] = [line for line in listed.stdout.splitlines() if line.startswith("street/train")]
    backbones = ["slowfast:tiny@random:1,", "vit:tiny@ab12"]
    assert line.split()[:7] == ["street/train", filled.id, "identity", "float32", *backbones, "10/10"]
    shown = CliRunner().invoke(cache, ["info", str(store.root), filled.id], catch_exceptions=False)
    assert '"decoder": "pillow-1"' in shown.stdout
    with pytest.raises(NotFoundError, match=f"Did you mean '{filled.id}'"):
        CliRunner().invoke(cache, ["info", str(store.root), filled.id + "0"], catch_exceptions=False)


def test_verify_repairs_by_giving_shards_back(store: Store, filled: FeatureSet) -> None:
    sound = CliRunner().invoke(cache, ["verify", str(store.root)], catch_exceptions=False)
    assert f"street/train/{filled.id}: 10 rows checked, 0 damaged shards" in sound.stdout
    shard = filled.path / "slow/c/1/0/0/0"
    shard.write_bytes(bytes(shard.stat().st_size))
    for arguments, hint in ((["verify"], "with --repair"), (["verify", "--repair"], "are marked")):
        with pytest.raises(InputError, match=rf"(?s)is damaged\..*{hint}.*ompute them again: stal-cli precompute"):
            CliRunner().invoke(cache, [*arguments, str(store.root)], catch_exceptions=False)
    repaired = CliRunner().invoke(cache, ["verify", str(store.root)], catch_exceptions=False)
    assert repaired.exit_code == 0
    assert "6 rows checked, 0 damaged shards, 4 rows not computed yet" in repaired.stdout


def test_repair_leaves_a_shard_that_is_being_written_and_mends_all_others(
    store: Store, filled: FeatureSet, spec: FeatureSpec
) -> None:
    later = write_rows(store, spec, 10, split="val")
    for path in (filled.path, later.path):
        for shard in (1, 2):
            flip(path / f"slow/c/{shard}/0/0/0")
    writer = FeatureWriter(filled.path)
    with writer.claim(1) or pytest.fail("it is free"), pytest.raises(InputError) as raised:
        CliRunner().invoke(cache, ["verify", str(store.root), "--repair"], catch_exceptions=False)
    text = str(raised.value)
    assert re.search(r"Not repaired: Shard 1 of .*/train/.* is being written by process \d+ on host", text)
    assert re.search(r"The other shards are marked as not computed now\. .*--split train", text)
    assert re.search(r"These shards are marked as not computed now\. .*--split val", text)
    assert writer.pending() == [2]
    assert FeatureWriter(later.path).pending() == [1, 2]


def test_verify_names_key_frames_that_count_as_not_computed(store: Store, filled: FeatureSet) -> None:
    (filled.path / "done/c/2").unlink()
    result = CliRunner().invoke(cache, ["verify", str(store.root)], catch_exceptions=False)
    assert result.exit_code == 0
    assert "0 damaged shards, 2 rows not computed yet: vidéo 2,0000; vidéo 2,0001\n" in result.stdout


def test_verify_names_every_key_frame_when_asked(store: Store, spec: FeatureSpec) -> None:
    path = write_rows(store, spec, 12, rows_per_shard=12).path
    shard = path / "slow/c/0/0/0/0"
    shard.write_bytes(bytes(shard.stat().st_size))
    for options, listed in (
        ([], r"vidéo 2,0001 and 2 more: "),
        (["--all-key-frames"], r"vidéo 2,0002; vidéo 2,0003: "),
    ):
        with pytest.raises(InputError, match=listed):
            CliRunner().invoke(cache, ["verify", str(store.root), *options], catch_exceptions=False)


def flip(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(bytes([content[0] ^ 1]) + content[1:])


def test_another_spec_in_the_way_is_named(dataset: Path, store_path: Path) -> None:
    run(dataset, store_path, *TINY)
    [info] = list_feature_sets(Store.open(store_path))
    manifest = info.path / "zarr.json"
    manifest.write_text(manifest.read_text().replace('"dtype": "float16"', '"dtype": "float32"'))
    with pytest.raises(ConflictError, match=r"attributes .* were changed"):
        run(dataset, store_path, *TINY)
