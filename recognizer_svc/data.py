"""Labelled key frames and their cached features, as batches. Coordinates: x1,y1,x2,y2 in [0,1] of the frame."""

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cache.feature_store import FeatureBatch, FeatureSet
from cache.split_store import PublishedSplit
from cache.statistics import time_mean
from recognizer_svc.heads.batch import FeatureShapes, HeadBatch
from recognizer_svc.neighbours import Neighbourhood, NeighbourRows, Sightings, rows_to_read
from recognizer_svc.training.joint.model import JointBatch
from recognizer_svc.training.seeds import seed_of
from stal_data.boxes import are_valid
from stal_data.errors import InputError
from stal_data.keyframes import KeyFrame
from stal_data.labels import LabelMap

if TYPE_CHECKING:
    from recognizer_svc.training.joint.clips import LiveClips

Item = TypeVar("Item")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class LabelledKeyFrame:
    """What the head is shown as one clip: a key frame with at least one person, or a part of its people.

    boxes_N4: float32. targets_NC: float32, 1 where the person performs the class.
    part: from 1 where several clips are made of a key frame, so that each is augmented in its own way; else 0.
    """

    key: KeyFrame
    boxes_N4: NDArray[np.float32]
    targets_NC: NDArray[np.float32]
    part: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelledBatch:
    """A batch with its targets [N, C] float32 and the key frame of each clip."""

    head: HeadBatch | JointBatch
    targets_NC: Tensor
    keys: tuple[KeyFrame, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Augmentation:
    """Changes of a training clip; the defaults change nothing.

    hflip_probability: how often a clip is seen mirrored (needs the mirrored feature set).
    box_jitter: each coordinate moves by uniform(-j, j) times the box's width or height, then is clipped to [0,1]. The
        boxes of a person in neighbouring key frames move independently, as a detector errs in each anew.
    """

    hflip_probability: float = 0.0
    box_jitter: float = 0.0


def labelled_key_frames(split: PublishedSplit, label_map: LabelMap) -> list[LabelledKeyFrame]:
    """Return the key frames with people; the others say nothing about actions."""
    if not split.annotated:
        raise InputError(f"{split.dataset}/{split.split} has no annotations, so it can only be predicted on.")
    labelled = []
    for item in split.key_frames:
        if not len(item.boxes_N4):
            continue
        check_boxes(item.key, item.boxes_N4)
        targets_NC = label_map.targets(item.labels)
        labelled.append(LabelledKeyFrame(key=item.key, boxes_N4=item.boxes_N4, targets_NC=targets_NC))
    if not any(item.targets_NC.any() for item in labelled):
        raise InputError(
            f"{split.dataset}/{split.split} has {len(split.key_frames)} key frames and nobody performs an action in "
            "any of them; run 'stal-cli dataset validate', then precompute again."
        )
    return labelled


def check_boxes(key: KeyFrame, boxes_N4: NDArray[np.float32]) -> None:
    """Refuse boxes that are not finite, outside [0,1] or inverted."""
    if boxes_N4.ndim != 2 or boxes_N4.shape[1] != 4:
        raise InputError(f"The boxes of {key} have shape {list(boxes_N4.shape)}; they must be [N, 4].")
    good = are_valid(boxes_N4, may_be_empty=True)
    if not good.all():
        raise InputError(
            f"Box {boxes_N4[~good][0].tolist()} of {key} must be x1,y1,x2,y2 with 0 <= x1 <= x2 <= 1 and "
            "0 <= y1 <= y2 <= 1, as fractions of the frame."
        )


class LabelledFeatures:
    """Random access to the labelled key frames of one split; safe to use from several threads."""

    def __init__(
        self,
        items: Sequence[LabelledKeyFrame],
        shapes: FeatureShapes,
        *,
        identity: FeatureSet,
        hflip: FeatureSet | None = None,
        augmentation: Augmentation | None = None,
        seed: int = 0,
        clips: "LiveClips | None" = None,
        neighbourhood: Neighbourhood | None = None,
    ) -> None:
        """shapes: of what is read for the head. clips: where the network computes a backbone's maps itself.

        neighbourhood: of the split, for a head that sees neighbouring key frames; then items show all people of one.
        """
        self.items = tuple(items)
        self.num_classes = items[0].targets_NC.shape[1]
        self._shapes = shapes
        self._clips = clips
        self._identity = identity
        self._hflip = hflip
        self._augmentation = augmentation or Augmentation()
        self._seed = seed
        self._buffers = threading.local()
        self._neighbourhood = neighbourhood
        self._sightings: dict[KeyFrame, Sightings] = {}
        wanted = dict.fromkeys(item.key for item in self.items)
        if neighbourhood is not None:
            wanted |= dict.fromkeys(other for key in list(wanted) for other in neighbourhood.occupied(key))
        keys = list(wanted)
        self._rows = dict(zip(keys, identity.rows_of(keys), strict=True))
        self._hflip_rows = {} if hflip is None else dict(zip(keys, hflip.rows_of(keys), strict=True))

    def __len__(self) -> int:
        return len(self.items)

    @property
    def decodes(self) -> bool:
        """Whether a batch holds clips."""
        return self._clips is not None

    def load(self, indices: Sequence[int], epoch: int = 0, *, pinned: bool = False) -> LabelledBatch:
        """Read some clips; what is random depends on the seed, the epoch and the key frame, not on the batch.

        indices: of clips; i + n * len(self) is the n-th repetition (from 0) of clip i, augmented in its own way.
        pinned: put the maps into page-locked memory as they are stored, for a CUDA device to fetch; needs one.
        """
        repetitions, indices = [index // len(self) for index in indices], [index % len(self) for index in indices]
        items = [self.items[index] for index in indices]
        mirrored, boxes, around = [], [], []
        for item, repetition in zip(items, repetitions, strict=True):
            flip, boxes_N4, sightings = self._augment(item, epoch, repetition)
            mirrored.append(flip)
            boxes.append(boxes_N4)
            if sightings is not None:
                around.append(sightings)
        keys = tuple(item.key for item in items)
        rows, neighbours = rows_to_read(list(zip(keys, mirrored, strict=True)), around)
        features = self._pinned(len(rows)) if pinned else self._buffer(len(rows))
        self._read(rows, features)
        targets = [item.targets_NC for item in items]
        read = [key for key, _ in rows]
        cached = head_batch(features, boxes, self._shapes, read, neighbours=neighbours, convert=not pinned)
        clips = None if self._clips is None else self._clips.load(keys, mirrored)
        return LabelledBatch(
            head=cached if clips is None else JointBatch(clips_B3THW=clips, cached=cached),
            targets_NC=torch.from_numpy(np.concatenate([np.empty((0, self.num_classes), np.float32), *targets])),
            keys=keys,
        )

    def _augment(
        self, item: LabelledKeyFrame, epoch: int, repetition: int
    ) -> tuple[bool, NDArray[np.float32], Sightings | None]:
        """Return whether the clip is mirrored, its boxes, and where its people are around it if the head sees that."""
        options = self._augmentation
        name = f"{item.key}#{item.part}" if item.part else str(item.key)
        random = np.random.default_rng(seed_of(self._seed, "augment", epoch, name, *[repetition] * (repetition > 0)))
        flip = self._hflip is not None and bool(random.random() < options.hflip_probability)

        def changed(boxes_N4: NDArray[np.float32]) -> NDArray[np.float32]:
            boxes_N4 = mirrored_boxes(boxes_N4) if flip else boxes_N4
            return jitter_boxes(boxes_N4, options.box_jitter, random) if options.box_jitter else boxes_N4

        boxes_N4, sightings = changed(item.boxes_N4), self._sightings_of(item.key)
        if sightings is not None:
            around_NK4 = sightings.boxes_NK4
            sightings = replace(sightings, boxes_NK4=changed(around_NK4.reshape(-1, 4)).reshape(around_NK4.shape))
        return flip, boxes_N4, sightings

    def _sightings_of(self, key: KeyFrame) -> Sightings | None:
        """Where the people of a key frame are around it; looked for once, since crowds without ids take a while."""
        if self._neighbourhood is None:
            return None
        found = self._sightings.get(key)
        if found is None:
            found = self._sightings[key] = self._neighbourhood.sightings(key)
        return found

    def _buffer(self, num_clips: int) -> FeatureBatch:
        """Arrays that each reading thread has for itself and uses again: `load` copies out of them."""
        held: FeatureBatch | None = getattr(self._buffers, "held", None)
        if held is None or self._buffers.num_clips < num_clips:
            held = self._buffers.held = self._identity.allocate(num_clips, self._shapes.arrays)
            self._buffers.num_clips = num_clips
        return {name: values[:num_clips] for name, values in held.items()}

    def _pinned(self, num_clips: int) -> FeatureBatch:
        """Page-locked arrays; torch keeps such memory and gives it out again once the device has fetched from it."""

        def pin(values: NDArray[Any]) -> NDArray[Any]:
            dtype = torch.from_numpy(values).dtype
            pinned: NDArray[Any] = torch.empty(values.shape, dtype=dtype, pin_memory=True).numpy()
            return pinned

        return {name: pin(values) for name, values in self._identity.allocate(num_clips, self._shapes.arrays).items()}

    def _read(self, wanted: Sequence[tuple[KeyFrame, bool]], out: FeatureBatch) -> None:
        """Read each key frame from the set of its view, mirrored or not, to its place in the batch."""
        for flip, features, rows in ((False, self._identity, self._rows), (True, self._hflip, self._hflip_rows)):
            places = [place for place, (_, mirrored) in enumerate(wanted) if mirrored == flip]
            if places and features is not None:
                features.read_into([rows[wanted[place][0]] for place in places], out, places)


def mirrored_boxes(boxes_X4: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return where boxes are in the mirrored frame."""
    boxes_X4 = boxes_X4[..., [2, 1, 0, 3]]
    boxes_X4[..., [0, 2]] = 1 - boxes_X4[..., [0, 2]]
    return boxes_X4


def jitter_boxes(boxes_N4: NDArray[np.float32], jitter: float, random: np.random.Generator) -> NDArray[np.float32]:
    """Move each coordinate by uniform(-jitter, jitter) times the box's width (x) or height (y); clip to [0,1]."""
    sizes_N2 = boxes_N4[:, 2:] - boxes_N4[:, :2]
    shift_N4 = random.uniform(-jitter, jitter, boxes_N4.shape) * np.concatenate([sizes_N2, sizes_N2], axis=1)
    moved_N4: NDArray[np.float32] = np.clip(boxes_N4 + shift_N4, 0, 1).astype(np.float32)
    return moved_N4


def head_batch(
    features: FeatureBatch,
    boxes: Sequence[NDArray[np.float32]],
    shapes: FeatureShapes,
    keys: Sequence[KeyFrame],
    *,
    neighbours: Sequence[NeighbourRows] = (),
    convert: bool = True,
) -> HeadBatch:
    """Turn cached rows and each clip's boxes [n, 4] into a batch; clips without boxes are fine.

    features: of the clips, then of neighbouring key frames; what was stored for every time step is averaged here.
    keys: key frame of each row of the features, to name the one whose features are damaged.
    neighbours: of each clip, where `shapes` has neighbours.
    convert: copy to float32, after which the arrays of `features` may be used again. Else the batch keeps them as
        they are, and `HeadBatch.to` converts on the device, to which half as many bytes then go.
    """
    counts = torch.tensor([len(clip) for clip in boxes], dtype=torch.int64)

    def tensor(name: str, shape: tuple[int, ...]) -> Tensor:
        held = torch.from_numpy(features[name])
        if held.ndim == 5:  # all time steps
            held = time_mean(held)
        elif convert:
            held = held.to(torch.float32, copy=True)
        assert held.shape == (len(keys), *shape)
        _check_finite(name, held, keys)
        return held

    batch = HeadBatch(
        features={name: tensor(name, shape) for name, shape in shapes.arrays.items()},
        boxes_N4=torch.from_numpy(np.concatenate([np.empty((0, 4), np.float32), *boxes])),
        clip_of_N=torch.repeat_interleave(torch.arange(len(boxes)), counts),
    )
    if not shapes.neighbours:
        return batch
    assert len(neighbours) == len(boxes)
    slots = 2 * shapes.neighbours
    boxes_NK4 = np.concatenate([np.empty((0, slots, 4), np.float32), *(boxes_NK4 for boxes_NK4, _ in neighbours)])
    row_NK = np.concatenate([np.empty((0, slots), np.int64), *(row_NK for _, row_NK in neighbours)])
    return replace(batch, neighbour_boxes_NK4=torch.from_numpy(boxes_NK4), neighbour_row_NK=torch.from_numpy(row_NK))


def epoch_plan(
    num_clips: int, batch_clips: int, *, seed: int, epoch: int, rank: int, world_size: int
) -> list[list[int]]:
    """Return the clip indices of each of a rank's steps.

    Every rank gets the same number of steps, ceil(num_clips / batch_clips); all ranks' parts of a step together are
    the same clips whatever the number of ranks, and no clip is repeated. A rank's part may be empty.
    """
    order = np.random.default_rng(seed_of(seed, "order", epoch)).permutation(num_clips)
    steps = -(-num_clips // batch_clips)
    return [part[rank::world_size].tolist() for part in np.array_split(order, steps)]


def clip_groups(counts: Sequence[int], *, max_clips: int, max_actors: int) -> list[list[int]]:
    """Cut clips with so many actors each into consecutive groups within both limits; a bigger clip stands alone."""
    groups: list[list[int]] = []
    actors = 0
    for index, count in enumerate(counts):
        if not groups or len(groups[-1]) == max_clips or actors + count > max_actors:
            groups.append([])
            actors = 0
        groups[-1].append(index)
        actors += count
    return groups


def read_ahead(load: Callable[[Sequence[int]], Item], plan: Sequence[Sequence[int]], threads: int) -> Iterator[Item]:
    """Yield `load(part)` for each part of the plan in order, while `threads` threads load the next ones."""
    with ThreadPoolExecutor(threads, thread_name_prefix="features") as pool:
        waiting: deque[Future[Item]] = deque()
        try:
            for part in plan:
                waiting.append(pool.submit(load, part))
                if len(waiting) > threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def _check_finite(name: str, values_BX: Tensor, keys: Sequence[KeyFrame]) -> None:
    """Refuse NaN and infinity, which would silently poison every score of the batch."""
    # A sum is much cheaper than a test of each value; only a suspicious one is looked into.
    if bool(torch.isfinite(values_BX.sum(dtype=torch.float32))):
        return
    finite_B = torch.isfinite(values_BX.flatten(1)).all(dim=1)
    if not bool(finite_B.all()):
        raise InputError(
            f"The cached features '{name}' of {keys[int(finite_B.int().argmin())]} hold NaN or infinity; "
            "find the damage with 'stal-cli cache verify' and precompute again."
        )
