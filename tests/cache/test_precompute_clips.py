"""Decoding: every clip is what the definition says, and frames that clips share are decoded once."""

import threading
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from cache.backbones.load import load_backbone
from cache.precompute import clips as clips_module
from cache.precompute.clips import ClipReader, read_ahead
from cache.precompute.extract import Extractor
from cache.precompute.plan import Clip
from stal_data.clips import clip_frames
from stal_data.errors import InputError
from stal_data.media.frames import FrameFolders
from stal_data.preprocess import preprocess_clip, resize_clip

SIZES = ((32, 48), (48, 64))
# Four clips of each of three videos, 4 frames apart: half of a clip's frames are also in the next but one.
CLIPS = {
    3 * start + video: Clip(video=f"v{video}", frames=tuple(clip_frames((1 + 4 * start, 65 + 4 * start)))[:20])
    for start in range(4)
    for video in range(3)
}


class Counting(FrameFolders):
    """Counts how often each frame is decoded."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.decoded: Counter[tuple[str, int]] = Counter()
        self._count_lock = threading.Lock()

    def read(self, video: str, frames: Sequence[int]) -> NDArray[np.uint8]:
        with self._count_lock:
            self.decoded.update((video, frame) for frame in frames)
        return super().read(video, frames)


def read_all(media: FrameFolders) -> dict[int, dict[tuple[int, int], torch.Tensor]]:
    reader = ClipReader(media, CLIPS, SIZES)
    rows = sorted(CLIPS)
    jobs = ((first, rows[first : first + 5]) for first in range(0, len(rows), 5))
    found = {}
    with ThreadPoolExecutor(4) as pool:
        for first, batch in read_ahead(jobs, reader, pool):
            for place, row in enumerate(rows[first : first + 5]):
                found[row] = {size: clips[place] for size, clips in batch.items()}
    return found


def test_clips_are_as_defined_and_shared_frames_are_decoded_once(frames_root: Path) -> None:
    media, plain = Counting(frames_root), FrameFolders(frames_root)
    found = read_all(media)
    assert sorted(found) == sorted(CLIPS)
    for row, clip in CLIPS.items():
        for size in SIZES:
            expected = resize_clip(plain.read(clip.video, clip.frames), *size)
            np.testing.assert_array_equal(found[row][size].numpy(), expected)
    distinct = {(clip.video, frame) for clip in CLIPS.values() for frame in clip.frames}
    assert media.decoded == Counter(distinct)
    assert len(distinct) < sum(len(clip.frames) for clip in CLIPS.values()) / 2


def test_too_little_room_for_shared_frames_costs_decoding_and_nothing_else(
    frames_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = read_all(FrameFolders(frames_root))
    monkeypatch.setattr(clips_module, "KEPT_BYTES", 10 * 3 * sum(height * width for height, width in SIZES))
    media = Counting(frames_root)
    found = read_all(media)
    for row, clips in expected.items():
        for size in SIZES:
            assert torch.equal(found[row][size], clips[size])
    assert max(media.decoded.values()) > 1


def test_a_frame_that_does_not_decode_fails_every_clip_that_waits_for_it(frames_root: Path) -> None:
    class Broken(FrameFolders):
        def read(self, video: str, frames: Sequence[int]) -> NDArray[np.uint8]:
            raise InputError(f"{video} is broken")

    reader = ClipReader(Broken(frames_root), CLIPS, SIZES)
    with ThreadPoolExecutor(4) as pool:
        futures = []
        for row in sorted(CLIPS):
            clip = {size: batch[0].numpy() for size, batch in reader.empty([row], pinned=False).items()}
            futures.append(pool.submit(reader.read_into, row, clip))
        errors = [future.exception(timeout=60) for future in futures]
    assert all(isinstance(error, InputError) for error in errors)


def test_the_backbones_see_the_same_bits_as_in_training() -> None:
    """The device normalises, the training of a backbone does it with NumPy; all 256 levels must agree."""
    vit = load_backbone("vit", weights="random:0", preset="tiny")
    extractor = Extractor([vit], torch.device("cpu"))
    levels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(3, axis=3)
    found = extractor._normalise(torch.from_numpy(levels)[None], 0)
    np.testing.assert_array_equal(found[0].numpy(), preprocess_clip(levels, 16, 16))


@pytest.mark.gpu
def test_a_gpu_normalises_to_the_same_bits() -> None:
    vit = load_backbone("vit", weights="random:0", preset="tiny")
    levels = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16, 1).expand(1, 1, 16, 16, 3)
    host, device = (Extractor([vit], torch.device(name))._normalise(levels, 0) for name in ("cpu", "cuda"))
    assert torch.equal(host, device.cpu())
