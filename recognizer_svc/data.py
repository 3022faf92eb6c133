"""Labelled key frames and their cached features. Coordinates: x1,y1,x2,y2 in [0,1] of the frame."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cache.feature_store import FeatureBatch, FeatureSet
from cache.split_store import PublishedSplit
from recognizer_svc.bank import Bank
from recognizer_svc.batching import head_batch
from recognizer_svc.boxes import check_boxes, jitter_boxes, mirrored_boxes
from recognizer_svc.heads.batch import FeatureShapes, HeadBatch
from recognizer_svc.neighbours import Neighbourhood, Sightings, rows_to_read
from recognizer_svc.training.joint.model import JointBatch
from recognizer_svc.training.seeds import seed_of
from stal_data.errors import InputError
from stal_data.keyframes import KeyFrame
from stal_data.labels import LabelMap

if TYPE_CHECKING:
    from recognizer_svc.training.joint.clips import LiveClips


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
        bank: Bank | None = None,
    ) -> None:
        """shapes: of what is read for the head. clips: where the network computes a backbone's maps itself.

        neighbourhood: of the split, for a head that sees other key frames; then items show all people of one.
        bank: an empty one, for a head that has one.
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
        self._neighbourhood, self._bank = neighbourhood, bank
        self._sightings: dict[KeyFrame, Sightings] = {}
        wanted = dict.fromkeys(item.key for item in self.items)
        if bank is not None and neighbourhood is not None:
            bank.check_room(map(neighbourhood.window, wanted), views=1 if hflip is None else 2)
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
        bank = None
        if self._bank is not None and self._neighbourhood is not None:
            windows, sets = map(self._neighbourhood.window, keys), {False: self._identity}
            sets |= {} if self._hflip is None else {True: self._hflip}
            bank = self._bank.around(list(zip(windows, mirrored, strict=True)), sets)
        features = self._pinned(len(rows)) if pinned else self._buffer(len(rows))
        self._read(rows, features)
        targets = [item.targets_NC for item in items]
        read = [key for key, _ in rows]
        cached = head_batch(features, boxes, self._shapes, read, neighbours=neighbours, bank=bank, convert=not pinned)
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
            held = self._buffers.held = self._allocate(num_clips)
            self._buffers.num_clips = num_clips
        return {name: values[:num_clips] for name, values in held.items()}

    def _pinned(self, num_clips: int) -> FeatureBatch:
        """Page-locked arrays; torch keeps such memory and gives it out again once the device has fetched from it."""

        def pin(values: NDArray[Any]) -> NDArray[Any]:
            dtype = torch.from_numpy(values).dtype
            pinned: NDArray[Any] = torch.empty(values.shape, dtype=dtype, pin_memory=True).numpy()
            return pinned

        return {name: pin(values) for name, values in self._allocate(num_clips).items()}

    def _allocate(self, num_clips: int) -> FeatureBatch:
        return self._identity.allocate(num_clips, self._identity.spec.stored_for(self._shapes.arrays))

    def _read(self, wanted: Sequence[tuple[KeyFrame, bool]], out: FeatureBatch) -> None:
        """Read each key frame from the set of its view, mirrored or not, to its place in the batch."""
        for flip, features, rows in ((False, self._identity, self._rows), (True, self._hflip, self._hflip_rows)):
            places = [place for place, (_, mirrored) in enumerate(wanted) if mirrored == flip]
            if places and features is not None:
                features.read_into([rows[wanted[place][0]] for place in places], out, places)
