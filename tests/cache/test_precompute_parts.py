"""Several processes fill one set, each its part."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from cache.backbones.load import LoadedBackbone, load_backbone
from cache.feature_store import FeatureSet, FeatureWriter, list_feature_sets
from cache.precompute import Part, PrecomputeOptions, precompute
from cache.store import Store
from stal_data.dataset import Split
from stal_data.errors import ConflictError
from stal_data.media.frames import FrameFolders
from tests.cache.samples import make_split
from tests.hostile import STAL_CLI, hostile_folder

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def slowfast() -> LoadedBackbone:
    return load_backbone("slowfast", weights="random:0", preset="tiny")


class WatchedFrames(FrameFolders):
    """Remembers the videos whose frames were digested and those whose clips were read."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.digested: list[str] = []
        self.read_clips: list[str] = []

    def digest(self, video: str, frames: Sequence[int]) -> int:
        self.digested.append(video)
        return super().digest(video, frames)

    def read(self, video: str, frames: Sequence[int]) -> NDArray[np.uint8]:
        if len(frames) > 2:  # the check before any work decodes two
            self.read_clips.append(video)
        return super().read(video, frames)


def watched(root: Path) -> Split:
    return replace(make_split(root), media=WatchedFrames(root))


def part(number: int, count: int) -> Part:
    return Part(number=number, count=count, source="test")


def rows(features: FeatureSet) -> bytes:
    return features.read(range(9))["slow"].tobytes()


def test_parts_make_the_same_set_and_read_only_their_own_frames(
    frames_root: Path, tmp_path: Path, slowfast: LoadedBackbone
) -> None:
    options = {"backbones": [slowfast], "rows_per_shard": 3, "batch_size": 2}
    whole = precompute(
        make_split(frames_root), Store.open(tmp_path / "whole", create=True), PrecomputeOptions(**options)
    )
    store, notes = Store.open(tmp_path / "parts", create=True), []
    for number in (2, 3, 1):  # three videos of three key frames: a shard each
        split = watched(frames_root)
        [found] = precompute(split, store, PrecomputeOptions(part=part(number, 3), **options), note=notes.append)
        # Who makes the set must say what every row is made from; who finds it checks its own rows.
        assert set(split.media.digested) == ({"v0", "v1", "v2"} if number == 2 else {f"v{number - 1}"})
        assert split.media.read_clips == [f"v{number - 1}"] * 3
        assert found.complete == (number == 1)
    assert rows(found) == rows(whole[0])
    assert notes[0] == "part 2 of 3 (test): 1 of the set's 3 shards"
    again = watched(frames_root)
    precompute(again, store, PrecomputeOptions(part=part(1, 3), **options))
    assert again.media.read_clips == []


def test_more_parts_than_shards(frames_root: Path, store: Store, slowfast: LoadedBackbone) -> None:
    notes, events = [], []
    for number in range(1, 6):
        [found] = precompute(
            make_split(frames_root),
            store,
            PrecomputeOptions(backbones=[slowfast], rows_per_shard=3, part=part(number, 5)),
            note=notes.append,
            progress=lambda *event: events.append(event),
        )
    assert found.complete
    assert (
        sorted(note.split(": ")[1] for note in notes)
        == ["0 of the set's 3 shards"] * 2 + ["1 of the set's 3 shards"] * 3
    )
    assert ("extract", 0, 0) in events


def test_only_the_parts_own_shards_can_be_in_somebody_elses_hands(
    frames_root: Path, store: Store, slowfast: LoadedBackbone
) -> None:
    options = {"backbones": [slowfast], "rows_per_shard": 3}
    [found] = precompute(make_split(frames_root), store, PrecomputeOptions(part=part(1, 3), **options))
    with FeatureWriter(found.path).claim(2):
        precompute(make_split(frames_root), store, PrecomputeOptions(part=part(2, 3), **options))
        with pytest.raises(ConflictError, match="being written by process"):
            precompute(make_split(frames_root), store, PrecomputeOptions(part=part(3, 3), **options))
    assert found.done.tolist() == [True] * 6 + [False] * 3


def test_rows_that_others_compute_meanwhile_are_told_apart(
    frames_root: Path, store: Store, slowfast: LoadedBackbone
) -> None:
    """One of three shards is done before the begin, and one by somebody else, who holds it at first."""
    options = {"backbones": [slowfast], "rows_per_shard": 3}
    [found] = precompute(make_split(frames_root), store, PrecomputeOptions(part=part(1, 3), **options))
    claim, seen, told = FeatureWriter(found.path).claim(1), [], []

    def progress(phase: str, done: int, total: int) -> None:
        seen.append((phase, done, sum(told)))
        if (phase, done) == ("extract", 6):
            claim.release()
            precompute(make_split(frames_root), store, PrecomputeOptions(part=part(2, 3), **options))

    whole = PrecomputeOptions(**options)
    precompute(make_split(frames_root), store, whole, progress=progress, wait=True, others=told.append)
    assert [item[1:] for item in seen if item[0] == "extract"] == [(3, 0), (6, 0), (9, 3)]


def test_a_part_notices_its_own_changed_frames(
    frames_root: Path, store: Store, tmp_path: Path, slowfast: LoadedBackbone
) -> None:
    options = {"backbones": [slowfast], "rows_per_shard": 3}
    precompute(make_split(frames_root), store, PrecomputeOptions(part=part(1, 3), **options))
    root = tmp_path / "frames"
    root.mkdir()
    # The same number of pictures, of another video.
    (root / "v2").mkdir()
    for file in (frames_root / "v1").iterdir():
        (root / "v2" / file.name.replace("v1", "v2")).hardlink_to(file)
    for video in ("v0", "v1"):
        (root / video).symlink_to(frames_root / video)
    with pytest.raises(ConflictError, match=r"source \(the frames' content\) of 3 key frames, first v2,0000"):
        precompute(make_split(root), store, PrecomputeOptions(part=part(3, 3), **options))


@pytest.fixture
def dataset(frames_root: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "dataset.yaml").write_text(
        f"name: street\nmedia: {{kind: frames, root: {frames_root}}}\nsplits: {{train: {{videos: [v0, v1]}}}}\n"
    )
    return folder


def command(dataset: Path, store: Path, *options: str) -> list[str]:
    tiny = ("--slowfast", "random:0", "--slowfast-preset", "tiny", "--rows-per-shard", "1")
    return ["precompute", str(dataset), "--split", "train", "--store", str(store), *tiny, *options]


def environment(**extra: str) -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1"} | extra


def test_torchruns_ranks_fill_a_set_together(dataset: Path, tmp_path: Path) -> None:
    torchrun = [sys.executable, "-P", "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    done = subprocess.run(
        [*torchrun, "--no-python", STAL_CLI, *command(dataset, tmp_path / "store")],
        cwd=hostile_folder(tmp_path),
        env=environment(PYTHONPATH=str(ROOT)),
        capture_output=True,
        text=True,
        timeout=250,
    )
    assert done.returncode == 0, done.stderr
    half = r"part {} of 2 \(torchrun rank {}\): {} of the set's {} shards"
    [info] = list_feature_sets(Store.open(tmp_path / "store"))
    assert info.complete
    for rank in (0, 1):
        assert re.search(half.format(rank + 1, rank, info.num_rows // 2, info.num_rows), done.stderr)


def stal_cli(tmp_path: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [STAL_CLI, *words],
        cwd=hostile_folder(tmp_path),
        env=environment(PYTHONPATH=str(ROOT)),
        capture_output=True,
        text=True,
        timeout=250,
    )


def test_devices_have_a_process_each_and_one_display(dataset: Path, tmp_path: Path) -> None:
    """Two CPU devices stand in for two GPUs."""
    alone = stal_cli(tmp_path, *command(dataset, tmp_path / "alone", "--json"))
    both = stal_cli(tmp_path, *command(dataset, tmp_path / "both", "--json", "--device", "cpu,cpu:0"))
    assert (alone.returncode, both.returncode) == (0, 0), alone.stderr + both.stderr
    expected, found = (
        FeatureSet(list_feature_sets(Store.open(tmp_path / store))[0].path) for store in ("alone", "both")
    )
    total = len(found.key_frames)
    assert found.read(range(total))["slow"].tobytes() == expected.read(range(total))["slow"].tobytes()
    for number, device in enumerate(("cpu", "cpu:0"), 1):
        assert f"{device}: part {number} of 2 (--shard {number}/2): {total // 2} of the set's" in both.stderr
    events = [json.loads(line) for line in both.stdout.splitlines()]
    assert events[-2] == {"phase": "extract", "done": total, "total": total}
    assert events[-1] == json.loads(alone.stdout.splitlines()[-1])


def test_a_device_that_fails_is_named_after_its_reason(dataset: Path, tmp_path: Path) -> None:
    words = command(dataset, tmp_path / "store")
    assert stal_cli(tmp_path, *words, "--shard", "1/2").returncode == 0
    [info] = list_feature_sets(Store.open(tmp_path / "store"))
    with FeatureWriter(info.path).claim(info.num_rows - 1):
        failed = stal_cli(tmp_path, *words, "--device", "cpu,cpu:0")
    assert failed.returncode == 1
    assert "cpu:0: Error: Some shards are being written by process" in failed.stderr
    assert "Error: The processes of these devices failed: cpu:0 (exit code 1)" in failed.stderr.splitlines()[-1]
    assert FeatureSet(info.path).done.tolist() == [True] * (info.num_rows - 1) + [False]


@pytest.mark.slow
def test_two_machines_take_their_parts_from_their_schedulers(dataset: Path, tmp_path: Path) -> None:
    """Two processes at once, one numbered by a Slurm array, one by Kubernetes."""
    base = [sys.executable, "-m", "cli.main"]
    array = {"TASK_ID": "1", "TASK_MIN": "1", "TASK_MAX": "2", "TASK_COUNT": "2", "TASK_STEP": "1"}
    runs = [
        subprocess.Popen(
            [*base, *command(dataset, tmp_path / "store", "--shard", shard)],
            cwd=ROOT,
            env=environment(**variables),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for shard, variables in (
            ("auto", {f"SLURM_ARRAY_{name}": value for name, value in array.items()}),
            ("auto/2", {"JOB_COMPLETION_INDEX": "1"}),
        )
    ]
    errors = [run.communicate(timeout=250)[1] for run in runs]
    assert [run.returncode for run in runs] == [0, 0], errors
    assert "part 1 of 2 (Slurm array task 1)" in errors[0]
    assert "part 2 of 2 (Kubernetes index 1)" in errors[1]
    [info] = list_feature_sets(Store.open(tmp_path / "store"))
    assert info.complete
