"""Clips, boxes and targets for training a backbone: decoded by threads, each clip once while memory allows.

B clips, N people, T frames, H, W rows and columns, L labels.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stal_data.clips import clip_frames, resolve_window
from stal_data.dataset import Split
from stal_data.errors import InputError, did_you_mean
from stal_data.keyframes import AnnotatedKeyFrame
from stal_data.labels import LabelMap
from stal_data.preprocess import normalise_clip, resize_clip

BATCHES_AHEAD = 3  # decoded while the model works on the current one
MAX_SHIFT = 0.1  # of the window, in each direction


@dataclass(frozen=True, kw_only=True)
class ClipBatch:
    """clips_B3THW: float32, normalised. boxes_N5: clip index, x1,y1,x2,y2 in [0,1]. targets_NL: float32, 0 or 1."""

    clips_B3THW: Tensor
    boxes_N5: Tensor
    targets_NL: Tensor

    def to(self, device: torch.device) -> "ClipBatch":
        return ClipBatch(
            clips_B3THW=self.clips_B3THW.to(device),
            boxes_N5=self.boxes_N5.to(device),
            targets_NL=self.targets_NL.to(device),
        )


@dataclass(frozen=True, kw_only=True)
class Draw:
    """One example of a batch: a whole clip with everybody in it, or a window of it around one person.

    index: position among the training clips. person: position of the box that the window is around; None = whole clip.
    shift: rows and columns, in pixels, by which the window misses the middle of the box.
    """

    index: int
    flip: bool
    person: int | None = None
    shift: tuple[int, int] = (0, 0)


class TrainingClips:
    """The key frames of a split that show people, with the chosen labels as targets."""

    def __init__(
        self,
        split: Split,
        *,
        label_types: Sequence[str],
        height: int,
        width: int,
        cache_bytes: int,
        window: int | None = None,
    ) -> None:
        """label_types: only labels of these types are targets; a person without one is a negative for all. None stands
        for PERSON_MOVEMENT, or for all types of a map without it.

        cache_bytes: clips are kept resized (uint8) up to this size; the others are decoded each time.
        window: pixels on a side of the windows around single people; None = only whole clips are drawn.
        """
        if not split.annotated or split.label_map is None:
            raise InputError(
                f"Split '{split.name}' of {split.dataset} has no annotations, and training needs them: name another "
                "--split, or bring annotations in with 'stal-cli dataset import'."
            )
        self.label_ids = _labels_of_types(split.label_map, label_types)
        self.key_frames = tuple(item for item in split.key_frames if len(item.boxes_N4))
        if not self.key_frames:
            raise InputError(f"Split '{split.name}' of {split.dataset} has no key frame with a person to train on.")
        self._media = split.media
        self._height, self._width, self.window = height, width, window
        self._targets = [self._targets_of(item) for item in self.key_frames]
        clip_bytes = len(clip_frames((1, 2))) * height * width * 3
        self._cached = min(len(self.key_frames), cache_bytes // clip_bytes)
        self._cache: dict[int, NDArray[np.uint8]] = {}

    def __len__(self) -> int:
        return len(self.key_frames)

    def label_counts(self) -> tuple[NDArray[np.int64], int]:
        """Return how many people carry each target label, and how many people there are."""
        targets_NL = np.concatenate(self._targets)
        return targets_NL.sum(axis=0).astype(np.int64), len(targets_NL)

    def batches(self, plan: Sequence[Sequence[Draw]], threads: int) -> Iterator[ClipBatch]:
        """Yield the planned batches in order; `threads` threads decode ahead."""
        pool = ThreadPoolExecutor(threads, thread_name_prefix="decode")
        waiting: deque[tuple[Sequence[Draw], list[Future[NDArray[np.uint8]]]]] = deque()
        try:
            for draws in plan:
                waiting.append((draws, [pool.submit(self._clip, draw.index) for draw in draws]))
                if len(waiting) > BATCHES_AHEAD:
                    yield self._batch(*waiting.popleft())
            while waiting:
                yield self._batch(*waiting.popleft())
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _batch(self, draws: Sequence[Draw], frames: Sequence[Future[NDArray[np.uint8]]]) -> ClipBatch:
        clips, boxes, targets = [], [], []
        for position, (draw, future) in enumerate(zip(draws, frames, strict=True)):
            frames_THW3, boxes_N4 = future.result(), self.key_frames[draw.index].boxes_N4
            targets_NL = self._targets[draw.index]
            if draw.person is not None:
                frames_THW3, boxes_N4 = self._cut(draw, frames_THW3, boxes_N4[draw.person])
                targets_NL = targets_NL[[draw.person]]
            if draw.flip:
                frames_THW3, boxes_N4 = frames_THW3[:, :, ::-1], flip_boxes(boxes_N4)
            clips.append(torch.from_numpy(normalise_clip(frames_THW3)))
            index_N1 = np.full((len(boxes_N4), 1), position, dtype=np.float32)
            boxes.append(np.concatenate([index_N1, boxes_N4], axis=1))
            targets.append(targets_NL)
        return ClipBatch(
            clips_B3THW=torch.stack(clips),
            boxes_N5=torch.from_numpy(np.concatenate(boxes)),
            targets_NL=torch.from_numpy(np.concatenate(targets)),
        )

    def _cut(
        self, draw: Draw, frames_THW3: NDArray[np.uint8], box_4: NDArray[np.float32]
    ) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        """Return the window around the box, always inside the frame, and the box in [0,1] of the window, [1,4]."""
        assert self.window is not None
        size, (height, width) = self.window, frames_THW3.shape[1:3]
        x1, y1, x2, y2 = box_4 * np.array([width, height, width, height], np.float32)
        top = int(np.clip((y1 + y2 - size) / 2 + draw.shift[0], 0, height - size))
        left = int(np.clip((x1 + x2 - size) / 2 + draw.shift[1], 0, width - size))
        box_14 = (np.array([[x1, y1, x2, y2]], np.float32) - np.array([left, top, left, top], np.float32)) / size
        return frames_THW3[:, top : top + size, left : left + size], box_14.clip(0, 1)

    def people(self) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Return everybody as (clip index, position in the clip) [N,2], and the targets [N,L]."""
        pairs = [(index, person) for index, item in enumerate(self.key_frames) for person in range(len(item.boxes_N4))]
        return np.array(pairs, np.int64), np.concatenate(self._targets)

    def _clip(self, index: int) -> NDArray[np.uint8]:
        cached = self._cache.get(index)
        if cached is not None:
            return cached
        item = self.key_frames[index]
        video = item.key.video
        frames = clip_frames(resolve_window(item, self._media.info(video)))
        clip_THW3 = resize_clip(self._media.read(video, frames), self._height, self._width)
        if index < self._cached:
            self._cache[index] = clip_THW3
        return clip_THW3

    def _targets_of(self, item: AnnotatedKeyFrame) -> NDArray[np.float32]:
        return np.array([[label in labels for label in self.label_ids] for labels in item.labels], dtype=np.float32)


def plan_batches(num_clips: int, *, steps: int, batch_size: int, seed: int) -> list[list[Draw]]:
    """Return `steps` batches: every clip once, in random order, before any comes again; half of them mirrored."""
    generator = np.random.default_rng(seed)
    order: list[int] = []
    while len(order) < steps * batch_size:
        order.extend(generator.permutation(num_clips).tolist())
    flips = generator.random(steps * batch_size) < 0.5
    draws = [Draw(index=index, flip=bool(flip)) for index, flip in zip(order, flips, strict=False)]
    return [draws[start : start + batch_size] for start in range(0, len(draws), batch_size)]


def plan_windows(clips: TrainingClips, *, steps: int, batch_size: int, seed: int) -> list[list[Draw]]:
    """Return `steps` batches of windows around people, half of them mirrored, people of rare labels more often.

    A person is drawn in proportion to 1 / sqrt(how many people carry the rarest of the person's labels).
    """
    assert clips.window is not None
    generator = np.random.default_rng(seed)
    pairs_N2, targets_NL = clips.people()
    carriers_L = targets_NL.sum(axis=0).clip(min=1)
    weights_N = (targets_NL / np.sqrt(carriers_L)).max(axis=1)
    weights_N[weights_N == 0] = 1 / np.sqrt(len(weights_N))
    count = steps * batch_size
    chosen = pairs_N2[generator.choice(len(pairs_N2), size=count, p=weights_N / weights_N.sum())]
    flips = generator.random(count) < 0.5
    reach = round(MAX_SHIFT * clips.window)
    shifts = generator.integers(-reach, reach, size=(count, 2), endpoint=True)
    draws = [
        Draw(index=int(index), flip=bool(flip), person=int(person), shift=(int(down), int(right)))
        for (index, person), flip, (down, right) in zip(chosen, flips, shifts, strict=True)
    ]
    return [draws[start : start + batch_size] for start in range(0, count, batch_size)]


def flip_boxes(boxes_N4: NDArray[np.float32]) -> NDArray[np.float32]:
    """Mirror boxes (x1,y1,x2,y2 in [0,1]) from left to right."""
    x1, y1, x2, y2 = boxes_N4.T
    return np.stack([1 - x2, y1, 1 - x1, y2], axis=1)


def _labels_of_types(label_map: LabelMap, label_types: Sequence[str]) -> tuple[int, ...]:
    known = set(label_map.types)
    label_types = label_types or (["PERSON_MOVEMENT"] if "PERSON_MOVEMENT" in known else sorted(known))
    for label_type in label_types:
        if label_type not in known:
            raise InputError(
                f"{label_map.source} has no label of type '{label_type}'. {did_you_mean(label_type, known - {''})}"
            )
    return tuple(label.id for label in label_map.labels if label.type in label_types)
