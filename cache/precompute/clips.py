"""Decoding ahead of the model: threads read and resize the next clips while the current ones are computed."""

from collections import deque
from collections.abc import Generator, Iterable, Sequence
from concurrent.futures import Executor, Future
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from cache.precompute.plan import Clip
from stal_data.media import Media
from stal_data.preprocess import preprocess_clip

Size = tuple[int, int]
"""Height and width of a backbone's input, in pixels."""

LOOKAHEAD = 2
"""Batches decoded ahead; bounds the memory: a clip of 224x224 pixels takes 19 MB."""

T = TypeVar("T")


class ClipReader:
    """Reads clips once for all backbones: one decode, one resize for each distinct input size."""

    def __init__(self, media: Media, clips: Sequence[Clip], sizes: Iterable[Size]) -> None:
        self._media, self._clips, self._sizes = media, clips, tuple(sorted(set(sizes)))

    def __call__(self, row: int) -> dict[Size, np.ndarray]:
        """Return the clip of a row at each size: [3,T,H,W] float32."""
        clip = self._clips[row]
        frames_THW3 = self._media.read(clip.video, clip.frames)
        return {(height, width): preprocess_clip(frames_THW3, height, width) for height, width in self._sizes}


def read_ahead(
    jobs: Iterable[tuple[T, Sequence[int]]], reader: ClipReader, pool: Executor
) -> Generator[tuple[T, dict[Size, Tensor]]]:
    """Yield (job, {size: clips [B,3,T,H,W]}) in order; jobs are pairs of anything and the rows of one batch.

    The pool reads the rows of the next LOOKAHEAD batches meanwhile; jobs are taken from the iterable as early.
    """
    waiting: deque[tuple[T, list[Future[dict[Size, np.ndarray]]]]] = deque()
    try:
        for job, rows in jobs:
            waiting.append((job, [pool.submit(reader, row) for row in rows]))
            if len(waiting) > LOOKAHEAD:
                yield _batch(*waiting.popleft())
        while waiting:
            yield _batch(*waiting.popleft())
    finally:
        for _, futures in waiting:
            for future in futures:
                future.cancel()


def _batch(job: T, futures: list[Future[dict[Size, np.ndarray]]]) -> tuple[T, dict[Size, Tensor]]:
    clips = [future.result() for future in futures]
    return job, {size: torch.from_numpy(np.stack([clip[size] for clip in clips])) for size in clips[0]}
