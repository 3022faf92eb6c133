"""Which key frames to look at: those with the most errors of the weakest classes."""

from dataclasses import dataclass
from itertools import zip_longest
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from stal_data.keyframes import KeyFrame
from stal_eval.alignment import Alignment
from stal_eval.outcomes import ROW_OUTCOMES, TRUTH_OUTCOMES

if TYPE_CHECKING:  # compiled code, which a report of a finished result does not need
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
    alignment: Alignment, matching: "Matching", outcomes: "Outcomes", ap_K: NDArray[np.float64]
) -> tuple[Example, ...]:
    """Return at most MAX_EXAMPLES different key frames: the one with the most errors of the weakest class, of the next
    weakest, and so on; then the second one of each class.

    ap_K: NaN without ground truth; such classes have no example. Key frames without ground truth are none either.
    """
    truth_key_G = alignment.ground_truth.key_N[matching.targets]
    key_N = alignment.predictions.key_N[matching.row_N]
    annotated = np.bincount(truth_key_G, minlength=alignment.num_keys) > 0
    wrong_N = outcomes.kept_N & (outcomes.row_N != ROW_OUTCOMES.index("correct")) & annotated[key_N]
    missed_G = outcomes.truth_G != TRUTH_OUTCOMES.index("found")
    class_G = alignment.ground_truth.class_N[matching.targets]
    worst = [label for label in np.argsort(ap_K, kind="stable").tolist() if not np.isnan(ap_K[label])]
    ranked = []
    for label in worst:
        rows = slice(*matching.class_offsets[label : label + 2].tolist())
        keys = np.concatenate((key_N[rows][wrong_N[rows]], truth_key_G[missed_G & (class_G == label)]))
        values, counts = np.unique(keys, return_counts=True)
        ranked.append([(label, key) for key in values[np.argsort(-counts, kind="stable")[:_PER_CLASS]].tolist()])
    chosen: dict[int, int] = {}
    for candidates in zip_longest(*ranked):
        for label, key in filter(None, candidates):
            if len(chosen) < MAX_EXAMPLES:
                chosen.setdefault(key, label)
    return tuple(_example(key, label, alignment, matching, outcomes) for key, label in chosen.items())


def _example(key: int, label: int, alignment: Alignment, matching: "Matching", outcomes: "Outcomes") -> Example:
    rows, truth = alignment.predictions, alignment.ground_truth
    here_G = np.flatnonzero(truth.key_N[matching.targets] == key)
    here_N = np.flatnonzero((rows.key_N[matching.row_N] == key) & outcomes.kept_N)
    here_N = here_N[np.argsort(matching.rank_N[here_N])]
    return Example(
        key=alignment.keys[key],
        label=label,
        ground_truth=tuple(
            Mark(
                box=_box(truth.boxes_N4[row]),
                label=int(truth.class_N[row]),
                outcome=TRUTH_OUTCOMES[outcomes.truth_G[place]],
            )
            for place, row in zip(here_G, matching.targets[here_G], strict=True)
        ),
        predictions=tuple(
            Mark(
                box=_box(rows.boxes_N4[row]),
                label=int(rows.class_N[row]),
                outcome=ROW_OUTCOMES[outcomes.row_N[place]],
                score=float(rows.score_N[row]),
            )
            for place, row in zip(here_N, matching.row_N[here_N], strict=True)
        ),
    )


def _box(box: NDArray[np.float64]) -> Box:
    x1, y1, x2, y2 = box.tolist()
    return x1, y1, x2, y2
