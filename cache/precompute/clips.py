"""Decoding ahead of the model: threads read and resize the next clips while the current ones are computed.

B clips, T frames, H, W rows and columns, 3 colours.
"""

import threading
from collections import OrderedDict, deque
from collections.abc import Generator, Iterable, Mapping, Sequence
from concurrent.futures import Executor, Future
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cache.precompute.plan import Clip
from stal_data.media import Media
from stal_data.preprocess import resize_frame

Size = tuple[int, int]
"""Height and width of a backbone's input, in pixels."""

Frame = dict[Size, NDArray[np.uint8]]
"""One frame at each size, HW3."""

LOOKAHEAD = 2
"""Batches decoded ahead; bounds the memory: a clip of 224x224 pixels takes 5 MB."""

KEPT_BYTES = 128 * 2**20
"""Resized frames kept for the clips that share them; those are near each other, since rows go in order of time."""

T = TypeVar("T")


class ClipReader:
    """Reads clips once for all backbones: each frame is decoded once, and resized once for each distinct input size.

    Threads share it: a frame that one of them is decoding is awaited by the others.
    """

    def __init__(self, media: Media, clips: Mapping[int, Clip], sizes: Iterable[Size]) -> None:
        """clips: by row."""
        self._media, self._clips, self._sizes = media, clips, tuple(sorted(set(sizes)))
        self._frames: OrderedDict[tuple[str, int], Future[Frame]] = OrderedDict()
        frame_bytes = sum(3 * height * width for height, width in self._sizes)
        self._max_frames = KEPT_BYTES // frame_bytes
        self._lock = threading.Lock()

    def empty(self, rows: Sequence[int], *, pinned: bool) -> dict[Size, Tensor]:
        """Return room for the clips of some rows at each size: [B,T,H,W,3] uint8. pinned: fast to copy to a GPU."""
        num_frames = len(self._clips[rows[0]].frames)
        return {
            size: torch.empty(len(rows), num_frames, *size, 3, dtype=torch.uint8, pin_memory=pinned)
            for size in self._sizes
        }

    def read_into(self, row: int, clip: Mapping[Size, NDArray[np.uint8]]) -> None:
        """Fill `clip`, [T,H,W,3] at each size."""
        video, numbers = self._clips[row].video, self._clips[row].frames
        frames, mine = self._look_up(video, numbers)
        if mine:
            self._decode(video, mine)
        for position, number in enumerate(numbers):
            frame = frames[number].result()
            for size, pixels_THW3 in clip.items():
                pixels_THW3[position] = frame[size]

    def _look_up(self, video: str, numbers: Sequence[int]) -> tuple[dict[int, Future[Frame]], dict[int, Future[Frame]]]:
        """Return all frames of a clip, and among them those that the caller has to decode."""
        frames: dict[int, Future[Frame]] = {}
        mine: dict[int, Future[Frame]] = {}
        with self._lock:
            for number in dict.fromkeys(numbers):
                found = self._frames.get((video, number))
                if found is None:
                    found = self._frames[video, number] = mine[number] = Future()
                self._frames.move_to_end((video, number))
                frames[number] = found
            # Who needs an evicted frame holds its future.
            while len(self._frames) > self._max_frames:
                self._frames.popitem(last=False)
        return frames, mine

    def _decode(self, video: str, frames: Mapping[int, Future[Frame]]) -> None:
        """Fill the frames. A thread decodes all that it took before it waits for any, so nobody waits for ever."""
        try:
            pixels_THW3 = self._media.read(video, list(frames))
            for frame_HW3, future in zip(pixels_THW3, frames.values(), strict=True):
                future.set_result({size: resize_frame(frame_HW3, *size) for size in self._sizes})
        except BaseException as error:
            for future in frames.values():
                if not future.done():
                    future.set_exception(error)
            raise


def read_ahead(
    jobs: Iterable[tuple[T, Sequence[int]]], reader: ClipReader, pool: Executor, *, pinned: bool = False
) -> Generator[tuple[T, dict[Size, Tensor]]]:
    """Yield (job, {size: clips [B,T,H,W,3] uint8}) in order; jobs are pairs of anything and the rows of one batch.

    The pool reads the rows of the next LOOKAHEAD batches meanwhile; jobs are taken from the iterable as early.
    """
    waiting: deque[tuple[T, dict[Size, Tensor], list[Future[None]]]] = deque()
    try:
        for job, rows in jobs:
            batch = reader.empty(rows, pinned=pinned)
            arrays = {size: clips.numpy() for size, clips in batch.items()}
            futures = [
                pool.submit(reader.read_into, row, {size: clips[place] for size, clips in arrays.items()})
                for place, row in enumerate(rows)
            ]
            waiting.append((job, batch, futures))
            if len(waiting) > LOOKAHEAD:
                yield _read(*waiting.popleft())
        while waiting:
            yield _read(*waiting.popleft())
    finally:
        for _, _, futures in waiting:
            for future in futures:
                future.cancel()


def _read(job: T, batch: dict[Size, Tensor], futures: list[Future[None]]) -> tuple[T, dict[Size, Tensor]]:
    for future in futures:
        future.result()
    return job, batch
