"""Which key frames to look at: those with the most errors of the weakest classes."""

from dataclasses import dataclass
from itertools import zip_longest
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from stal_data.keyframes import KeyFrame
from stal_eval.outcomes import ROW_OUTCOMES, TRUTH_OUTCOMES

if TYPE_CHECKING:  # pandas and compiled code, which a report of a finished result does not need
    from stal_eval.alignment import Alignment
    from stal_eval.breakdown import Outcomes
    from stal_eval.matching import Matching

MAX_EXAMPLES = 12
_PER_CLASS = 4  # candidates of a class; the others are there when classes are few or share their worst key frame

Box = tuple[float, float, float, float]


@dataclass(frozen=True, kw_only=True)
class Mark:
    """One ground-truth box or prediction row. box: x1,y1,x2,y2 in [0,1]. label: class index. score: None for ground
    truth. outcome: one of TRUTH_OUTCOMES or ROW_OUTCOMES.
    """

    box: Box
    label: int
    outcome: str
    score: float | None = None


@dataclass(frozen=True, kw_only=True)
class Example:
    """A key frame, the class for whose errors it was picked, all its ground truth, and the rows that count in it, best
    first.
    """

    key: KeyFrame
    label: int
    ground_truth: tuple[Mark, ...]
    predictions: tuple[Mark, ...]


def pick_examples(
    alignment: "Alignment", matching: "Matching", outcomes: "Outcomes", ap_K: NDArray[np.float64]
) -> tuple[Example, ...]:
    """Return at most MAX_EXAMPLES different key frames: the one with the most errors of the weakest class, of the next
    weakest, and so on; then the second one of each class.

    ap_K: NaN for a class that is not in the mean; it has no example. Key frames without ground truth are none either.
    """
    truth_key_G = alignment.ground_truth.key_N[matching.targets]
    truth_class_G = alignment.ground_truth.class_N[matching.targets]
    kept_R = np.flatnonzero(outcomes.kept_N)
    key_R = alignment.predictions.key_N[matching.row_N[kept_R]]
    class_R = np.searchsorted(matching.class_offsets, kept_R, side="right") - 1
    annotated = np.bincount(truth_key_G, minlength=alignment.num_keys) > 0
    wrong_R = (outcomes.row_N[kept_R] != ROW_OUTCOMES.index("correct")) & annotated[key_R]
    missed_G = outcomes.truth_G != TRUTH_OUTCOMES.index("found")
    ranked = []
    for label in np.argsort(ap_K, kind="stable")[: int((~np.isnan(ap_K)).sum())].tolist():
        missed = truth_key_G[missed_G & (truth_class_G == label)]
        keys, counts = np.unique(np.concatenate((key_R[wrong_R & (class_R == label)], missed)), return_counts=True)
        ranked.append([(label, key) for key in keys[np.argsort(-counts, kind="stable")[:_PER_CLASS]].tolist()])
    chosen: dict[int, int] = {}
    for candidates in zip_longest(*ranked):
        for label, key in filter(None, candidates):
            if len(chosen) < MAX_EXAMPLES:
                chosen.setdefault(key, label)
    return tuple(
        Example(
            key=alignment.keys[key],
            label=label,
            ground_truth=_people(np.flatnonzero(truth_key_G == key), alignment, matching, outcomes),
            predictions=_boxes(kept_R[key_R == key], alignment, matching, outcomes),
        )
        for key, label in chosen.items()
    )


def _people(
    places: NDArray[np.int64], alignment: "Alignment", matching: "Matching", outcomes: "Outcomes"
) -> tuple[Mark, ...]:
    truth = alignment.ground_truth
    return tuple(
        Mark(
            box=_box(truth.boxes_N4[matching.targets[place]]),
            label=int(truth.class_N[matching.targets[place]]),
            outcome=TRUTH_OUTCOMES[outcomes.truth_G[place]],
        )
        for place in places
    )


def _boxes(
    places: NDArray[np.int64], alignment: "Alignment", matching: "Matching", outcomes: "Outcomes"
) -> tuple[Mark, ...]:
    rows = alignment.predictions
    return tuple(
        Mark(
            box=_box(rows.boxes_N4[matching.row_N[place]]),
            label=int(rows.class_N[matching.row_N[place]]),
            outcome=ROW_OUTCOMES[outcomes.row_N[place]],
            score=float(rows.score_N[matching.row_N[place]]),
        )
        for place in places[np.argsort(matching.rank_N[places])]
    )


def _box(box: NDArray[np.float64]) -> Box:
    x1, y1, x2, y2 = box.tolist()
    return x1, y1, x2, y2
