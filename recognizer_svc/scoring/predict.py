"""Scores for boxes on cached key frames. Coordinates: x1,y1,x2,y2 in [0,1] of the frame."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Self, TypeAlias
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import NDArray

from cache.exact_float32 import exact_float32
from cache.feature_store import FeatureBatch, FeatureSet
from cache.spec import FeatureSpec
from cache.store import Store
from recognizer_svc.bank import Bank
from recognizer_svc.batching import clip_groups, head_batch, read_ahead
from recognizer_svc.boxes import check_boxes, mirrored_boxes
from recognizer_svc.features import ADVICE, FeatureRows, check_fits, joint_advice, open_fitting
from recognizer_svc.neighbours import BankRows, Neighbourhood, NeighbourRows, rows_to_read
from recognizer_svc.people import People
from recognizer_svc.runs.run_dir import RunDir
from recognizer_svc.training.checkpoint import Checkpoint, load_checkpoint
from stal_data.errors import InputError
from stal_data.keyframes import KeyFrame, ScoredKeyFrame
from stal_data.labels import LabelMap

MAX_CLIPS = 32
MAX_ACTORS = 128
"""Of one forward pass; bounds its memory. A key frame with more people gets a pass of its own."""

READER_THREADS = 2
_BANK_BYTES = 2**28
"""Of vectors that a feature bank keeps: of a pass or call, most are those of the one before."""


@dataclass(frozen=True, kw_only=True, eq=False)
class BoxesOfKeyFrame:
    """The people to score in one key frame, all of them: their actions are judged with an eye on each other.

    boxes_N4: float32; N may be 0.
    persons_N: ids in the video, -1 where unknown; None = all unknown.
    around: of `Predictor.neighbourhood`; None = nobody knows who is where in other key frames.
    """

    key: KeyFrame
    boxes_N4: NDArray[np.float32]
    persons_N: NDArray[np.int64] | None = None
    around: Neighbourhood | None = None

    def only(self, which: NDArray[np.bool_]) -> "BoxesOfKeyFrame":
        """Return some of the people."""
        persons_N = None if self.persons_N is None else self.persons_N[which]
        return replace(self, boxes_N4=self.boxes_N4[which], persons_N=persons_N)


_Rows: TypeAlias = tuple[list[KeyFrame], list[NeighbourRows], BankRows | None]
"""Whose features a pass needs, those of its clips first, where in them its people are at other times, and its bank."""


def name_of_device(device: str) -> str:
    """What `auto` stands for on this machine, CUDA where there is some; any other name as it is."""
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return device


class Predictor:
    """A trained head, ready to score."""

    def __init__(self, checkpoint: Checkpoint, device: torch.device) -> None:
        exact_float32()
        self.checkpoint = checkpoint
        self.device = device
        self._head = checkpoint.build_head().to(device)
        # As long as a set is open, which is a while after a call of Recognize.
        self._banks: WeakKeyDictionary[FeatureRows, Bank] = WeakKeyDictionary()
        self._advice = (
            ADVICE if checkpoint.backbone_state is None else joint_advice(checkpoint.recipe.training.backbone)
        )

    @classmethod
    def load(cls, path: Path, *, device: str = "auto", checkpoint: Literal["latest", "best"] = "latest") -> Self:
        """Load a run's folder, or a checkpoint file as it is.

        device: as torch names it; `auto` = CUDA where there is some, else the CPU.
        checkpoint: which of a run's checkpoints; no effect for a file.
        """
        file = RunDir(path).checkpoint(checkpoint) if path.is_dir() else path
        return cls(load_checkpoint(file), torch.device(name_of_device(device)))

    @property
    def label_map(self) -> LabelMap:
        return self.checkpoint.label_map

    @property
    def feature_spec(self) -> FeatureSpec:
        """What the head was trained on, identity view."""
        return self.checkpoint.feature_spec

    def open_features(self, store: Store, dataset: str, split: str, set_id: str | None = None) -> FeatureSet:
        """Open the split's feature set that fits the head, or the one with this id if it does."""
        return open_fitting(
            store,
            dataset,
            split,
            trained_on=self.feature_spec,
            shapes=self.checkpoint.shapes,
            set_id=set_id,
            advice=self._advice,
        )

    def check_spec(self, features: FeatureRows) -> tuple[str, ...]:
        """Refuse features that the head was not trained for; return the differences that are tolerated."""
        return check_fits(self.feature_spec, self.checkpoint.shapes, features.spec, advice=self._advice)

    def neighbourhood(self, people: Mapping[KeyFrame, People]) -> Neighbourhood | None:
        """Return who is where around each key frame, as far as the head looks; None where it does not look around."""
        data = self.checkpoint.recipe.data
        return Neighbourhood(people, **data.reach) if data.looks_around else None

    def _rows(
        self, people: Sequence[BoxesOfKeyFrame], features: FeatureRows | None, *, mirrored: bool = False
    ) -> _Rows:
        nobody = self.neighbourhood({})
        if nobody is None:
            return [item.key for item in people], [], None
        around = [item.around or nobody for item in people]
        sightings = [
            there.sightings(item.key, People.of(item.boxes_N4, item.persons_N))
            for item, there in zip(people, around, strict=True)
        ]
        rows, neighbours = rows_to_read([(item.key, False) for item in people], sightings)
        if mirrored:
            neighbours = [(mirrored_boxes(boxes_NK4), row_NK) for boxes_NK4, row_NK in neighbours]
        bank, regions = None, self.checkpoint.recipe.bank
        if regions is not None and features is not None:
            windows = [(there.window(item.key), mirrored) for item, there in zip(people, around, strict=True)]
            held = self._banks.setdefault(features, Bank(self.checkpoint.shapes, regions, max_bytes=_BANK_BYTES))
            bank = held.around(windows, {mirrored: features})
        return [key for key, _ in rows], neighbours, bank

    def _score(self, features: FeatureBatch, people: Sequence[BoxesOfKeyFrame], rows: _Rows) -> NDArray[np.float32]:
        """Return scores [N, classes] of all boxes, clip after clip. features: of the trained spec, of `rows`."""
        keys, neighbours, bank = rows
        boxes, shapes = [item.boxes_N4 for item in people], self.checkpoint.shapes
        batch = head_batch(features, boxes, shapes, keys, neighbours=neighbours, bank=bank).to(self.device)
        with torch.inference_mode():
            scores_NC = self.checkpoint.recipe.loss.scores(self._head(batch))
        found: NDArray[np.float32] = scores_NC.cpu().numpy()
        if not np.isfinite(found).all():
            raise InputError(
                "The head's scores hold NaN or infinity: the checkpoint is damaged or its training diverged."
            )
        return found

    def warm_up(self) -> None:
        """Score a key frame without features, so that a GPU loads its code now and not for the first request."""
        features = {name: np.zeros((1, *shape), np.float32) for name, shape in self.checkpoint.shapes.arrays.items()}
        whole_N4 = np.array([[0, 0, 1, 1]], np.float32)
        people = [BoxesOfKeyFrame(key=KeyFrame("", 0), boxes_N4=whole_N4)]
        self._score(features, people, self._rows(people, None))

    def predict(
        self, features: FeatureRows, people: Iterable[BoxesOfKeyFrame], *, mirrored: bool = False
    ) -> Iterator[ScoredKeyFrame]:
        """Score key frames in the given order; those without boxes come back with none, and no features are read.

        mirrored: the features are of the view `hflip`, in which the head is shown the boxes mirrored, too.
        """
        self.check_spec(features)
        wanted = list(people)
        for item in wanted:
            check_boxes(item.key, item.boxes_N4)
            if len(item.boxes_N4):
                features.row_of(item.key)
                for key in item.around.occupied(item.key) if item.around is not None else ():
                    features.row_of(key)
        plan = clip_groups([len(item.boxes_N4) for item in wanted], max_clips=MAX_CLIPS, max_actors=MAX_ACTORS)

        def load(group: Sequence[int]) -> tuple[FeatureBatch, list[BoxesOfKeyFrame], _Rows]:
            shown = [wanted[index] for index in group if len(wanted[index].boxes_N4)]
            rows = self._rows(shown, features, mirrored=mirrored)
            if mirrored:
                shown = [replace(item, boxes_N4=mirrored_boxes(item.boxes_N4)) for item in shown]
            numbers = [features.row_of(key) for key in rows[0]]
            return features.read(numbers, features.spec.stored_for(self.checkpoint.shapes.arrays)), shown, rows

        for group, batch in zip(plan, read_ahead(load, plan, READER_THREADS), strict=True):
            items = [wanted[index] for index in group]
            scores_NC = self._score(*batch)
            start = 0
            for item in items:
                end = start + len(item.boxes_N4)
                yield ScoredKeyFrame(key=item.key, boxes_N4=item.boxes_N4, scores_NC=scores_NC[start:end])
                start = end
