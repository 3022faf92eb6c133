"""What is asked of the scoring thread, and what it answers. No torch here."""

from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from recognizer_svc.people import People
from recognizer_svc.training.recipe_sections import Layout
from stal_data.errors import InputError
from stal_data.keyframes import KeyFrame, ScoredKeyFrame

if TYPE_CHECKING:
    from recognizer_svc.scoring.model_list import ModelInfo


def parse_boxes(text: str) -> tuple[str, str]:
    """Return whom to score, as kind and detector, of `ground-truth`, `proposals` or `proposals:NAME`."""
    kind, colon, name = text.partition(":")
    if kind not in ("ground-truth", "proposals") or (colon and (kind != "proposals" or not name)):
        raise InputError(f"'{text}' must be ground-truth, proposals or proposals:NAME (as 'detect --name' filed them).")
    return kind, name


@dataclass(frozen=True, kw_only=True)
class PredictQuery:
    """A whole split.

    checkpoint: best, latest, or "" for best where there is one. feature_set: "" for the one that fits.
    proposals: the detector's name, "" for the only one, None for ground-truth boxes.
    layout: what a clip shows and how often, see row_predictions.
    flip_average: whether scores are averaged with those on the mirrored features.
    fuse_confidence: whether each box's scores are multiplied by the detector's confidence in it.
    """

    run_id: str
    checkpoint: str
    dataset: str
    split: str
    proposals: str | None
    feature_set: str
    layout: Layout = "key_frames"
    flip_average: bool = False
    fuse_confidence: bool = False

    def __post_init__(self) -> None:
        if self.fuse_confidence and self.proposals is None:
            raise InputError(
                "fuse_confidence is set, but ground-truth boxes have no confidence; leave it out, or predict on "
                "proposals."
            )


@dataclass(frozen=True, kw_only=True, eq=False)
class RecognizeQuery:
    """A few boxes [N, 4] float32, x1,y1,x2,y2 in [0,1], on one key frame.

    persons_N: their ids in the video, -1 where unknown; None = all unknown.
    neighbours: the people of key frames around, of those that the caller knows.
    """

    run_id: str
    checkpoint: str
    dataset: str
    split: str
    key: KeyFrame
    boxes_N4: NDArray[np.float32]
    feature_set: str
    persons_N: NDArray[np.int64] | None = None
    neighbours: Mapping[KeyFrame, People] = field(default_factory=dict)

    @property
    def source(self) -> tuple[str, ...]:
        """What calls have in common that can be scored together: the head and the features."""
        return self.run_id, self.checkpoint, self.dataset, self.split, self.feature_set


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """What a split's scores come from; `scored` yields them and is used and closed in the scoring thread."""

    model: "ModelInfo"
    feature_set: str
    notes: tuple[str, ...]
    num_key_frames: int
    num_boxes: int
    scored: Generator[ScoredKeyFrame]
