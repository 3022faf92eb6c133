"""The steps of precompute run at once: each meets the step that shall overlap it, or the test fails at the barrier."""

import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from cache.backbones.load import LoadedBackbone, load_backbone
from cache.feature_store.shard_writer import ShardWriter
from cache.precompute import PrecomputeOptions, precompute
from cache.precompute.extract import Extractor
from cache.store import Store
from stal_data.media.frames import FrameFolders
from tests.cache.samples import make_split

PATIENCE_S = 30
BATCH = 3
"""A batch is the clips of one of the three videos."""


@pytest.fixture(scope="module")
def slowfast() -> LoadedBackbone:
    return load_backbone("slowfast", weights="random:0", preset="tiny")


@pytest.fixture(autouse=True)
def one_core() -> Iterator[None]:
    """Let batches be computed one after another, so that their order is known."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Launches:
    """Makes the launch of some batches wait until the step that shall overlap it has begun, and that one for it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, batches: Sequence[int]) -> None:
        self._meetings = {batch: threading.Barrier(2) for batch in batches}
        self.met: list[int] = []
        self._count = 0
        launch = Extractor.launch

        def launched(extractor: Extractor, *arguments: Any) -> Any:
            batch, self._count = self._count, self._count + 1
            self.meet(batch)
            return launch(extractor, *arguments)

        monkeypatch.setattr(Extractor, "launch", launched)

    def meet(self, batch: int) -> None:
        if batch in self._meetings and self._meetings[batch].wait(PATIENCE_S) == 0:
            self.met.append(batch)


class MeetingFrames(FrameFolders):
    """Reading the first clip of a video meets the launch of the batch before."""

    def __init__(self, root: Path, launches: Launches) -> None:
        super().__init__(root)
        self._launches, self._seen = launches, set[str]()

    def read(self, video: str, frames: Sequence[int]) -> NDArray[np.uint8]:
        if len(frames) > 2 and video not in self._seen:  # the check before any work decodes two
            self._seen.add(video)
            self._launches.meet(int(video.removeprefix("v")) - 1)
        return super().read(video, frames)


@pytest.mark.parametrize("rows_per_shard", [9, BATCH])
def test_the_next_frames_are_read_while_a_batch_is_computed(
    store: Store, frames_root: Path, slowfast: LoadedBackbone, monkeypatch: pytest.MonkeyPatch, rows_per_shard: int
) -> None:
    launches = Launches(monkeypatch, [0, 1])
    split = replace(make_split(frames_root), media=MeetingFrames(frames_root, launches))
    options = PrecomputeOptions(backbones=[slowfast], batch_size=BATCH, rows_per_shard=rows_per_shard, decode_threads=1)
    [features] = precompute(split, store, options)
    assert features.complete
    assert launches.met == [0, 1]


@pytest.mark.parametrize("rows_per_shard", [9, BATCH])
def test_rows_are_written_while_the_next_batch_is_computed(
    store: Store, frames_root: Path, slowfast: LoadedBackbone, monkeypatch: pytest.MonkeyPatch, rows_per_shard: int
) -> None:
    launches, write = Launches(monkeypatch, [1, 2]), ShardWriter.write

    def written(output: ShardWriter, rows: range, blocks: Mapping[str, NDArray[Any]]) -> None:
        launches.meet(rows.start // BATCH + 1)
        write(output, rows, blocks)

    monkeypatch.setattr(ShardWriter, "write", written)
    options = PrecomputeOptions(backbones=[slowfast], batch_size=BATCH, rows_per_shard=rows_per_shard)
    [features] = precompute(make_split(frames_root), store, options)
    assert features.complete
    assert launches.met == [1, 2]
