"""Which key frames to label next: those of whose people a head is least sure, rare classes first, unlike each other."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cache.statistics import SCALE, dequantised
from cli.workflow.predictions import Person
from stal_data.keyframes import KeyFrame
from stal_data.labels import LabelMap

if TYPE_CHECKING:
    from cache.feature_store import FeatureSet

_CHUNK = 64
_NAMED = 2
"""Classes in a reason."""


@dataclass(frozen=True, kw_only=True)
class Suggestion:
    """A key frame to label. uncertainty: in [0,1], see `rank`. distance: to the nearest one before it, in [0,2].

    distance is None without features, and of the first.
    """

    key: KeyFrame
    uncertainty: float
    distance: float | None
    reason: str


def rank(
    people: Mapping[KeyFrame, Sequence[Person]],
    labelled: Mapping[int, int],
    label_map: LabelMap,
    count: int,
    features: "FeatureSet | None" = None,
) -> list[Suggestion]:
    """Return so many key frames, best first.

    labelled: how many labelled people show each class, by label id; its weight is w = 1 / (1 + that number).
    A person's uncertainty is the sum over the classes of w H(score), divided by the sum of w; H is the entropy of the
    score in bits. A key frame's is the mean over its people. Next is the key frame whose uncertainty, multiplied by
    the distance to the nearest chosen one in the features, is largest: with equal uncertainties, the greedy k-centre
    choice. Of equals, the first in order of video and time is taken. Key frames without people are not suggested.
    """
    keys = sorted(key for key, found in people.items() if found)
    weights_C = np.array([1 / (1 + labelled.get(label, 0)) for label in label_map.ids])
    parts = [_entropies(people[key], label_map) * weights_C for key in keys]
    uncertainties_K = np.array([part_NC.sum(axis=1).mean() / weights_C.sum() for part_NC in parts])
    pooled_KD = pooled(features, keys) if features is not None and keys else None
    return [
        Suggestion(
            key=keys[place],
            uncertainty=float(uncertainties_K[place]),
            distance=distance,
            reason=_reason(people[keys[place]], parts[place], labelled, label_map, distance),
        )
        for place, distance in choose(uncertainties_K, pooled_KD, count)
    ]


def choose(
    values_K: NDArray[np.float64], points_KD: NDArray[np.float32] | None, count: int
) -> list[tuple[int, float | None]]:
    """Return up to `count` places, each with its distance to the nearest before it: see `rank`."""
    nearest_K = np.ones(len(values_K))
    left_K = np.ones(len(values_K), dtype=np.bool_)
    chosen: list[tuple[int, float | None]] = []
    while len(chosen) < min(count, len(values_K)):
        place = int(np.where(left_K, values_K * nearest_K, -1).argmax())
        chosen.append((place, float(nearest_K[place]) if chosen and points_KD is not None else None))
        left_K[place] = False
        if points_KD is not None:
            distances_K = np.linalg.norm(points_KD - points_KD[place], axis=1).astype(np.float64)
            nearest_K = distances_K if len(chosen) == 1 else np.minimum(nearest_K, distances_K)
    return chosen


def pooled(features: "FeatureSet", keys: Sequence[KeyFrame]) -> NDArray[np.float32]:
    """Return a unit vector [D] for each key frame: means of its maps over time and place, each map of equal weight."""
    rows = features.rows_of(keys)
    arrays = [name for name, shape in features.shapes.items() if len(shape) > 2 or name.endswith(SCALE)]
    found = []
    for start in range(0, len(rows), _CHUNK):
        maps = dequantised(features.read(rows[start : start + _CHUNK], arrays)).values()
        means = [_unit(values.astype(np.float32).mean(axis=tuple(range(2, values.ndim)))) for values in maps]
        found.append(_unit(np.concatenate(means, axis=1)))
    return np.concatenate(found)


def _unit(vectors_BD: NDArray[Any]) -> NDArray[np.float32]:
    return np.asarray(vectors_BD / np.maximum(np.linalg.norm(vectors_BD, axis=1, keepdims=True), 1e-12), np.float32)


def _entropies(people: Sequence[Person], label_map: LabelMap) -> NDArray[np.float64]:
    """Return the entropy of each person's score of each class in bits, [N, C]; no score is 0."""
    scores_NC = np.zeros((len(people), label_map.num_classes))
    for row, who in enumerate(people):
        for label, score in who.actions:
            scores_NC[row, label_map.index_of(label)] = score
    bits_NC = np.zeros_like(scores_NC)
    for part_NC in (scores_NC, 1 - scores_NC):
        bits_NC -= part_NC * np.log2(part_NC, where=part_NC > 0, out=np.zeros_like(part_NC))
    return bits_NC


def _reason(
    people: Sequence[Person],
    part_NC: NDArray[np.float64],
    labelled: Mapping[int, int],
    label_map: LabelMap,
    distance: float | None,
) -> str:
    texts = []
    for place in np.argsort(-part_NC.max(axis=0), kind="stable")[:_NAMED]:
        if part_NC[:, place].any():
            label = label_map.labels[place]
            score = dict(people[int(part_NC[:, place].argmax())].actions)[label.id]
            texts.append(f"'{label.name}' scored {score:.2f} ({labelled.get(label.id, 0)} labelled)")
    reason = f"unsure of {', '.join(texts)}" if texts else "sure of everything"
    return reason if distance is None else f"{reason}; {distance:.2f} from the nearest before it"
