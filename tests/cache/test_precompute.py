"""Precompute on real frames with the tiny backbones, against each clip computed by itself."""

import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from cache.backbones.load import LoadedBackbone, load_backbone
from cache.feature_store import FeatureWriter, list_feature_sets, open_feature_set
from cache.feature_store.shard_writer import ShardWriter
from cache.precompute import PrecomputeOptions, precompute
from cache.precompute.devices import resolve_devices
from cache.precompute.extract import Extractor
from cache.spec import View
from cache.split_store import load_split
from cache.store import Store
from stal_data.clips import clip_frames
from stal_data.dataset import Split
from stal_data.errors import ConflictError, InputError
from stal_data.media.frames import FrameFolders
from stal_data.media.video import VideoFiles
from stal_data.preprocess import preprocess_clip
from tests.cache.samples import make_split

ARRAYS = ("slow", "fast", "vit", "vit_moments")


@pytest.fixture(scope="module")
def slowfast() -> LoadedBackbone:
    return load_backbone("slowfast", weights="random:0", preset="tiny")


@pytest.fixture(scope="module")
def vit() -> LoadedBackbone:
    return load_backbone("vit", weights="random:0", preset="tiny")


class CountingFrames(FrameFolders):
    """Counts the clips that are decoded."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.clips: list[tuple[str, tuple[int, ...]]] = []
        self._count_lock = threading.Lock()

    def read(self, video: str, frames: Sequence[int]) -> NDArray[np.uint8]:
        if len(frames) > 2:  # the check before any work decodes two
            with self._count_lock:
                self.clips.append((video, tuple(frames)))
        return super().read(video, frames)


def counting(root: Path) -> Split:
    return replace(make_split(root), media=CountingFrames(root))


def one_by_one(split: Split, slowfast: LoadedBackbone, vit: LoadedBackbone, *, flip: bool) -> dict[str, torch.Tensor]:
    """Compute every key frame by itself, from the definition."""
    rows = []
    for item in split.key_frames:
        frames = split.media.read(item.key.video, clip_frames(item.window))
        outputs = []
        for backbone in (slowfast, vit):
            clip = torch.from_numpy(preprocess_clip(frames, backbone.spec.height, backbone.spec.width))
            with torch.no_grad():
                outputs.append(backbone.model((clip.flip(-1) if flip else clip)[None]))
        slow, fast, grid = outputs[0]["slow"], outputs[0]["fast"], outputs[1]["vit"]
        flat = grid.flatten(2).double()
        moments = torch.stack([flat.mean(2), flat.square().mean(2)], dim=1).float()
        rows.append((slow.mean(2), fast.mean(2), grid.mean(2), moments))
    return {name: torch.cat([row[i] for row in rows]) for i, name in enumerate(ARRAYS)}


def test_every_row_is_what_the_backbones_give_for_its_clip(
    store: Store, frames_root: Path, slowfast: LoadedBackbone, vit: LoadedBackbone
) -> None:
    split = counting(frames_root)
    sets = precompute(
        split,
        store,
        PrecomputeOptions(
            backbones=[slowfast, vit], views=("identity", "hflip"), dtype="float32", batch_size=2, rows_per_shard=4
        ),
    )
    assert [features.spec.view for features in sets] == ["identity", "hflip"]
    # Each clip was decoded once, for two views and two backbones.
    assert len(split.media.clips) == len(set(split.media.clips)) == len(split.key_frames) == 9
    for features, flip in zip(sets, (False, True), strict=True):
        assert features.key_frames == tuple(item.key for item in split.key_frames)
        assert features.complete
        assert not features.spec.backbone("slowfast").trained
        batch, expected = features.read(range(9)), one_by_one(split, slowfast, vit, flip=flip)
        for name in ARRAYS:
            # Batched and single convolutions may add in another order.
            np.testing.assert_allclose(batch[name], expected[name].numpy(), rtol=2e-4, atol=2e-5)
    assert not np.allclose(sets[0].read([0])["slow"], sets[1].read([0])["slow"], atol=1e-3)
    assert load_split(store, "street", "train").key_frames[3].key == split.key_frames[3].key


def test_half_precision_is_the_rounded_single_precision(
    store: Store, split: Split, slowfast: LoadedBackbone, vit: LoadedBackbone
) -> None:
    [single] = precompute(split, store, PrecomputeOptions(backbones=[slowfast, vit], dtype="float32"))
    [half] = precompute(split, store, PrecomputeOptions(backbones=[slowfast, vit]))
    assert half.spec.dtype == "float16"
    a, b = single.read(range(9)), half.read(range(9))
    for name in ("slow", "fast", "vit"):
        assert (a[name].astype(np.float16) == b[name]).all()
    assert (a["vit_moments"] == b["vit_moments"]).all()


def test_one_backbone_alone(store: Store, split: Split, slowfast: LoadedBackbone, vit: LoadedBackbone) -> None:
    [features] = precompute(split, store, PrecomputeOptions(backbones=[vit]))
    assert set(features.shapes) == {"vit", "vit_moments"}
    [features] = precompute(split, store, PrecomputeOptions(backbones=[slowfast]))
    assert set(features.shapes) == {"slow", "fast"}
    channels, _, rows, columns = slowfast.model.config.maps["slow"]
    assert features.shapes["slow"] == (channels, rows, columns)
    with pytest.raises(InputError, match="at least one backbone"):
        precompute(split, store, PrecomputeOptions(backbones=[]))


def test_a_second_run_computes_only_what_is_missing(store: Store, frames_root: Path, slowfast: LoadedBackbone) -> None:
    [features] = precompute(counting(frames_root), store, PrecomputeOptions(backbones=[slowfast], rows_per_shard=4))
    (features.path / "done/c/1").unlink()
    again = counting(frames_root)
    events: list[tuple[str, int, int]] = []
    precompute(again, store, PrecomputeOptions(backbones=[slowfast]), progress=lambda *event: events.append(event))
    assert {video for video, _ in again.media.clips} == {"v1", "v2"}
    assert len(again.media.clips) == 4
    assert events[0] == ("check", 3, 9)
    assert next(event for event in events if event[0] == "extract") == ("extract", 5, 9)
    assert events[-1] == ("extract", 9, 9)
    third = counting(frames_root)
    precompute(third, store, PrecomputeOptions(backbones=[slowfast]))
    assert third.media.clips == []


def test_a_view_added_later_uses_the_shards_of_the_first(
    store: Store, frames_root: Path, slowfast: LoadedBackbone
) -> None:
    precompute(counting(frames_root), store, PrecomputeOptions(backbones=[slowfast], rows_per_shard=4))
    split = counting(frames_root)
    plain, flipped = precompute(split, store, PrecomputeOptions(backbones=[slowfast], views=("identity", "hflip")))
    assert plain.manifest.rows_per_shard == flipped.manifest.rows_per_shard == 4
    assert len(split.media.clips) == 9


def test_changed_frames_are_noticed(store: Store, frames_root: Path, tmp_path: Path, slowfast: LoadedBackbone) -> None:
    root = tmp_path / "frames"
    root.mkdir()
    for folder in frames_root.iterdir():
        (root / folder.name).symlink_to(folder)
    precompute(make_split(root), store, PrecomputeOptions(backbones=[slowfast]))
    (root / "v1").unlink()
    (root / "v1").mkdir()
    for file in (frames_root / "v1").iterdir():
        image = Image.open(file)
        image.load()
        image.putpixel((0, 0), (1, 2, 3))
        image.save(root / "v1" / file.name)
    with pytest.raises(ConflictError, match=r"source \(the frames' content\) of 3 key frames, first v1,0000"):
        precompute(make_split(root), store, PrecomputeOptions(backbones=[slowfast]))


def test_other_weights_make_another_set_beside(store: Store, split: Split, slowfast: LoadedBackbone) -> None:
    [first] = precompute(split, store, PrecomputeOptions(backbones=[slowfast]))
    other = load_backbone("slowfast", weights="random:1", preset="tiny")
    [second] = precompute(split, store, PrecomputeOptions(backbones=[other]))
    assert first.id != second.id
    assert len(list_feature_sets(store)) == 2
    with pytest.raises(InputError, match=r"slowfast\.weights: random:[01] / random:[01]"):
        open_feature_set(store, "street", "train")


def copy_frames(source: Path, target: Path) -> Path:
    for folder in source.iterdir():
        (target / folder.name).mkdir(parents=True)
        for file in folder.iterdir():
            (target / folder.name / file.name).hardlink_to(file)
    return target


def test_missing_frames_are_all_named_before_any_work(
    store: Store, frames_root: Path, tmp_path: Path, slowfast: LoadedBackbone
) -> None:
    root = copy_frames(frames_root, tmp_path / "frames")
    # Clips use every second frame of the window's centre, wrapped around: 26 is in the second clip.
    (root / "v0/v0_000026.png").unlink()
    (root / "v2/v2_000001.png").unlink()
    with pytest.raises(InputError, match=r"(?s)Nothing was computed: 2 problems.*v0_000026\.png.*v2_000001\.png"):
        precompute(make_split(root), store, PrecomputeOptions(backbones=[slowfast]))
    assert list_feature_sets(store) == []


def test_frames_that_do_not_decode_are_named(
    store: Store, frames_root: Path, tmp_path: Path, slowfast: LoadedBackbone
) -> None:
    root = copy_frames(frames_root, tmp_path / "frames")
    (root / "v1/v1_000001.png").unlink()
    (root / "v1/v1_000001.png").write_bytes(b"not a picture")
    with pytest.raises(InputError, match=r"v1_000001\.png does not decode"):
        precompute(make_split(root), store, PrecomputeOptions(backbones=[slowfast]))
    assert list_feature_sets(store) == []


def write_video(path: Path, num_frames: int) -> None:
    """Write a 25 fps video of noise that moves one pixel a frame."""
    noise = np.random.default_rng(0).integers(0, 255, (48, 64, 3), dtype=np.uint8)
    with av.open(path, "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(num_frames):
            frame = av.VideoFrame.from_ndarray(np.roll(noise, number, axis=1), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def test_videos_need_no_extraction_and_a_broken_one_is_named_before_any_work(
    store: Store, split: Split, tmp_path: Path, slowfast: LoadedBackbone
) -> None:
    good, broken = tmp_path / "v0.mp4", tmp_path / "v1.mp4"
    write_video(good, 75)
    broken.write_bytes(good.read_bytes()[:2000])
    both = replace(split, key_frames=split.key_frames[:6], media=VideoFiles({"v0": good, "v1": broken}))
    with pytest.raises(InputError, match=r"(?s)Nothing was computed: 1 problem with.*v1\.mp4 does not decode"):
        precompute(both, store, PrecomputeOptions(backbones=[slowfast]))
    assert list_feature_sets(store) == []
    [features] = precompute(
        replace(both, key_frames=both.key_frames[:3]), store, PrecomputeOptions(backbones=[slowfast])
    )
    assert features.spec.decoder.startswith("pyav-")
    rows = features.read(range(3))["slow"]
    assert len({row.tobytes() for row in rows}) == 3


def test_a_frame_that_breaks_in_the_middle_loses_no_finished_shard(
    store: Store, frames_root: Path, tmp_path: Path, slowfast: LoadedBackbone
) -> None:
    root = copy_frames(frames_root, tmp_path / "frames")
    broken = root / "v2/v2_000036.png"  # neither first nor last, so the check before does not decode it
    broken.unlink()
    broken.write_bytes(b"not a picture")
    with pytest.raises(InputError, match=r"v2_000036\.png does not decode"):
        precompute(make_split(root), store, PrecomputeOptions(backbones=[slowfast], batch_size=1, rows_per_shard=1))
    [info] = list_feature_sets(store)
    assert 1 <= info.num_done < 9


def test_an_empty_split_is_an_error(store: Store, split: Split, slowfast: LoadedBackbone) -> None:
    with pytest.raises(InputError, match="'train' of 'street' has no key frames"):
        precompute(replace(split, key_frames=()), store, PrecomputeOptions(backbones=[slowfast]))


def test_features_that_overflow_half_precision_name_the_way_out(
    store: Store, split: Split, slowfast: LoadedBackbone
) -> None:
    class Loud(torch.nn.Module):
        def forward(self, clip: torch.Tensor) -> dict[str, torch.Tensor]:
            maps: dict[str, torch.Tensor] = slowfast.model(clip)
            return {**maps, "slow": maps["slow"] * 1e6}

    loud = LoadedBackbone(model=Loud(), spec=slowfast.spec)
    with pytest.raises(InputError, match=r"Array 'slow', channel \d+ of key frame v0,0000 .*--dtype float32"):
        precompute(split, store, PrecomputeOptions(backbones=[loud]))
    [features] = precompute(split, store, PrecomputeOptions(backbones=[loud], dtype="float32"))
    assert features.complete


def test_a_shard_that_another_writer_holds_is_left_to_it(store: Store, split: Split, slowfast: LoadedBackbone) -> None:
    [features] = precompute(split, store, PrecomputeOptions(backbones=[slowfast], rows_per_shard=4))
    for done in (features.path / "done/c").iterdir():
        done.unlink()
    writer = FeatureWriter(features.path)
    with writer.claim(1), pytest.raises(ConflictError, match=r"being written by process .* all others are done"):
        precompute(split, store, PrecomputeOptions(backbones=[slowfast]))
    assert writer.pending() == [1]
    precompute(split, store, PrecomputeOptions(backbones=[slowfast]))
    assert features.complete


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ("gpu!", "must be auto, cpu"),
        ("cuda:99", "CUDA devices are visible"),
        ("cpu,cpu", "each device may be named once"),
    ],
)
def test_bad_devices_are_refused(names: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        resolve_devices(names)


def test_no_more_is_at_risk_than_a_shard_and_the_batches_under_way(
    frames_root: Path, store: Store, slowfast: LoadedBackbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    launch, finish = Extractor.launch, ShardWriter.finish

    def launched(self: Extractor, *arguments: Any) -> Any:
        events.append("begun")
        return launch(self, *arguments)

    def finished(self: ShardWriter) -> None:
        finish(self)
        events.append("safe")

    monkeypatch.setattr(Extractor, "launch", launched)
    monkeypatch.setattr(ShardWriter, "finish", finished)
    both: tuple[View, ...] = ("identity", "hflip")
    split = make_split(frames_root)
    precompute(split, store, PrecomputeOptions(backbones=[slowfast], views=both, rows_per_shard=2, batch_size=1))
    at_risk = [events[:end].count("begun") - events[:end].count("safe") for end in range(len(events) + 1)]
    assert (events.count("begun"), events.count("safe")) == (9, 10)  # clips; shards of each view
    assert max(at_risk) <= 2 + 4
