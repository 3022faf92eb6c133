"""Labelled key frames and their cached features. Coordinates: x1,y1,x2,y2 in [0,1] of the frame."""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cache.feature_store import FeatureBatch, FeatureSet
from cache.split_store import PublishedSplit
from cache.statistics import source_of
from recognizer_svc.bank import Bank
from recognizer_svc.batching import feature_tensor, head_batch, read_ahead
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


_ROWS_AT_ONCE = 16
"""Read into memory where they stay."""


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
    """A batch with its targets [N, C] float32 and the key frame of each clip.

    labelled_NC: bool, the classes of which the targets are known; None = all.
    """

    head: HeadBatch | JointBatch
    targets_NC: Tensor
    keys: tuple[KeyFrame, ...]
    labelled_NC: Tensor | None = None


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
    """Random access to labelled key frames; safe to use from several threads."""

    def __init__(
        self,
        items: Sequence[LabelledKeyFrame],
        shapes: FeatureShapes,
        *,
        identity: FeatureSet,
        hflip: FeatureSet | None = None,
        additional: Mapping[tuple[str, bool], FeatureSet] | None = None,
        augmentation: Augmentation | None = None,
        seed: int = 0,
        clips: "LiveClips | None" = None,
        neighbourhood: Neighbourhood | None = None,
        bank: Bank | None = None,
        labelled: Mapping[str, NDArray[np.bool_]] | None = None,
    ) -> None:
        """shapes: of what is read for the head. clips: where the network computes a backbone's maps itself.

        additional: of other data sets, by name and whether they are mirrored; see `training.splits`.
        neighbourhood: of the split, for a head that sees other key frames; then items show all people of one.
        bank: an empty one, for a head that has one; of one data set.
        labelled: which classes each data set labels [C], where there are several; the targets of others are not known.
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
        self._sets = {("", False): identity, **({} if hflip is None else {("", True): hflip}), **(additional or {})}
        self._rows: dict[tuple[KeyFrame, bool], int] = {}
        for (dataset, flip), features in self._sets.items():
            mine = [key for key in keys if self.dataset_of(key) == dataset]
            rows = features.rows_of([replace(key, video=key.video.removeprefix(f"{dataset}/")) for key in mine])
            self._rows |= {(key, flip): row for key, row in zip(mine, rows, strict=True)}
        self._labelled = labelled or {}
        self._partly = any(not labelled_C.all() for labelled_C in self._labelled.values())
        self._resident: dict[str, Tensor] = {}

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
        features: Mapping[str, Any]
        if self._resident:
            features = self._gathered(rows)
        else:
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
            labelled_NC=torch.from_numpy(self.known(items)) if self._partly else None,
        )

    def dataset_of(self, key: KeyFrame) -> str:
        """Return the data set of a key frame, "" for the first."""
        name = key.video.partition("/")[0]
        return name if (name, False) in self._sets else ""

    def known(self, items: Sequence[LabelledKeyFrame]) -> NDArray[np.bool_]:
        """Return which targets of these clips are known, [N, C]."""
        every_C = np.ones(self.num_classes, np.bool_)
        labelled = [self._labelled.get(self.dataset_of(item.key), every_C) for item in items]
        return np.repeat([every_C, *labelled], [0, *(len(item.boxes_N4) for item in items)], axis=0)

    @property
    def num_bytes(self) -> int:
        """What `keep` takes."""
        manifest, total = self._identity.manifest, 0
        for name, shape in self._shapes.arrays.items():
            source, _ = source_of(name, manifest.shapes)
            # What is computed of all time steps or of int8 is float32.
            computed = len(manifest.shapes[source]) == 4 or manifest.dtype(source) == np.int8
            total += prod(shape) * (4 if computed else manifest.dtype(source).itemsize)
        return len(self._rows) * total

    def keep(self, device: torch.device, threads: int) -> None:
        """Read all rows once, into the memory of a device; from then on `load` puts batches together there."""
        rows, resident = list(self._rows), dict[str, Tensor]()
        starts = range(0, len(rows), _ROWS_AT_ONCE)

        def read(start: Sequence[int]) -> dict[str, Tensor]:
            some = rows[start[0] : start[0] + _ROWS_AT_ONCE]
            stored, keys = self._allocate(len(some)), [key for key, _ in some]
            self._read(some, stored)
            return {name: feature_tensor(name, stored, keys, convert=False) for name in self._shapes.arrays}

        for start, features in zip(starts, read_ahead(read, [[start] for start in starts], threads), strict=True):
            for name, values in features.items():
                if not start:
                    resident[name] = values.new_empty((len(rows), *values.shape[1:]), device=device)
                resident[name][start : start + len(values)] = values
        self._places, self._resident = {row: place for place, row in enumerate(rows)}, resident

    def _gathered(self, rows: Sequence[tuple[KeyFrame, bool]]) -> dict[str, Tensor]:
        places = torch.tensor([self._places[row] for row in rows], dtype=torch.int64)
        return {name: values[places.to(values.device)] for name, values in self._resident.items()}

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
        """Read each key frame from the set of its data set and view, mirrored or not, to its place in the batch."""
        for (dataset, flip), features in self._sets.items():
            places = [
                at for at, (key, mirrored) in enumerate(wanted) if (self.dataset_of(key), mirrored) == (dataset, flip)
            ]
            if places:
                features.read_into([self._rows[wanted[place]] for place in places], out, places)
