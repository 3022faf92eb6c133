"""Scores of a split's boxes, averaged with those of the mirror image and weighted by confidence where that is asked."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from cache.feature_store import FeatureSet
from cache.proposal_store import Proposals
from cache.store import Store
from recognizer_svc.features import open_mirrored
from recognizer_svc.people import People
from recognizer_svc.scoring.predict import BoxesOfKeyFrame, Predictor
from recognizer_svc.scoring.queries import PredictQuery
from stal_data.errors import InputError
from stal_data.keyframes import KeyFrame, ScoredKeyFrame


def combined_scores(
    store: Store,
    predictor: Predictor,
    query: PredictQuery,
    features: FeatureSet,
    people: Sequence[BoxesOfKeyFrame],
    proposals: Proposals | None,
) -> tuple[Iterator[ScoredKeyFrame], list[str]]:
    """Return the scores of each key frame's people, computed when they are asked for, and how they were combined.

    proposals: whose boxes with area they are; None = annotated people.
    """
    scored, notes = predictor.predict(features, people), []
    if query.flip_average:
        mirrored = open_mirrored(store, features)
        notes.append(f"scores are averaged with those on the mirrored feature set {mirrored.id}")
        scored = _averaged(scored, predictor.predict(mirrored, people, mirrored=True))
    if query.fuse_confidence and proposals is not None:
        _check_confidence(proposals, people)
        notes.append(f"scores are multiplied by the confidence of '{proposals.detector.name}'")
        scored = _weighted(scored, proposals)
    return scored, notes


def _averaged(one: Iterable[ScoredKeyFrame], other: Iterable[ScoredKeyFrame]) -> Iterator[ScoredKeyFrame]:
    for first, second in zip(one, other, strict=True):
        yield replace(first, scores_NC=(first.scores_NC + second.scores_NC) / np.float32(2))


def _weighted(scored: Iterable[ScoredKeyFrame], proposals: Proposals) -> Iterator[ScoredKeyFrame]:
    for item in scored:
        yield replace(item, scores_NC=item.scores_NC * _confidence(proposals, item.key)[:, None])


def _check_confidence(proposals: Proposals, people: Sequence[BoxesOfKeyFrame]) -> None:
    for item in people:
        if np.isnan(_confidence(proposals, item.key)).any():
            raise InputError(
                f"fuse_confidence is set, but the proposals '{proposals.detector.name}' of {proposals.dataset}/"
                f"{proposals.split} have a box without confidence in key frame {item.key}; leave it out, or run "
                "'stal-cli detect', which files confidences."
            )


def _confidence(proposals: Proposals, key: KeyFrame) -> NDArray[np.float32]:
    boxes_N4, confidence_N = proposals.of(key)
    return confidence_N[People.of(boxes_N4).with_area]
