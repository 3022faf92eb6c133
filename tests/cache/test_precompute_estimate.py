"""`precompute --estimate`: bytes are exact, time comes from measured clips, nothing is written."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from cache.backbones import BACKBONES
from cache.backbones.load import LoadedBackbone, load_backbone
from cache.feature_store import list_feature_sets
from cache.precompute import Part, PrecomputeOptions, estimate, precompute
from cache.store import Store
from cli.commands.precompute import precompute as command
from stal_data.dataset import Split


@pytest.fixture(scope="module")
def vit() -> LoadedBackbone:
    return load_backbone("vit", weights="random:0", preset="tiny")


@pytest.mark.parametrize("layout", ["pooled", "full"])
def test_the_bytes_are_those_that_a_run_writes(store: Store, split: Split, vit: LoadedBackbone, layout: str) -> None:
    statistics = BACKBONES["vit"].all_time_steps() if layout == "full" else None
    loaded = load_backbone("vit", weights=vit.spec.weights, preset="tiny", statistics=statistics)
    options = {"backbones": [loaded], "views": ("identity", "hflip"), "rows_per_shard": 3}
    found = estimate(split, store, PrecomputeOptions(**options))
    assert list_feature_sets(store) == []
    assert found.num_clips == 9
    sets = precompute(split, store, PrecomputeOptions(**options))
    rows = sum(values.nbytes for features in sets for values in features.read(range(9)).values())
    assert found.num_bytes == rows == 18 * found.row_bytes
    on_disk = sum(
        file.stat().st_size for features in sets for file in features.path.rglob("c/*/**/*") if file.is_file()
    )
    assert rows < on_disk < 1.5 * rows  # checksums, indices and columns
    assert estimate(split, store, PrecomputeOptions(**options)).num_clips == 0


def test_only_what_is_left_of_a_part_counts(store: Store, split: Split, vit: LoadedBackbone) -> None:
    options = {"backbones": [vit], "rows_per_shard": 3}
    parts = [Part(number=number, count=2, source="test") for number in (1, 2)]
    assert [estimate(split, store, PrecomputeOptions(part=part, **options)).num_clips for part in parts] == [3, 6]
    precompute(split, store, PrecomputeOptions(part=parts[0], **options))
    assert [estimate(split, store, PrecomputeOptions(part=part, **options)).num_clips for part in parts] == [0, 6]
    assert estimate(split, store, PrecomputeOptions(**options)).num_clips == 6


def test_the_time_is_that_of_the_measured_clips(store: Store, split: Split, vit: LoadedBackbone) -> None:
    found = estimate(split, store, PrecomputeOptions(backbones=[vit], batch_size=4))
    assert min(found.measured_clips, found.check_s_per_clip, found.decode_s_per_clip, found.compute_s_per_clip) > 0
    assert found.total_s >= found.num_clips * found.compute_s_per_clip


def test_the_command_prints_and_stops(frames_root: Path, tmp_path: Path) -> None:
    (tmp_path / "dataset.yaml").write_text(
        f"name: street\nmedia: {{kind: frames, root: {frames_root}}}\nsplits: {{train: {{videos: [v0]}}}}\n"
    )
    tiny = ["--vit", "random:0", "--vit-preset", "tiny", "--dtype", "float32"]
    arguments = [str(tmp_path), "--split", "train", "--store", str(tmp_path / "store"), *tiny, "--estimate"]
    result = CliRunner().invoke(command, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    first, second, third, fourth = result.stdout.splitlines()
    # A row: 16 x 6 x 8 values and 2 x 16 moments of 4 bytes.
    assert first == "3 key frames to compute, 10 kB to write"
    assert second.startswith("3 kB a key frame and view; ")
    assert third.startswith("about ")
    assert "then decoding" in third
    assert fourth == "measured on 3 clips; the time to write is not in it"
    assert not (tmp_path / "store").exists()
