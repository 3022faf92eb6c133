"""What the scoring thread does: boxes and features from the store, scores from a loaded head. Imports torch."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from cache.feature_store import FeatureSet
from cache.proposal_store import open_proposals
from cache.split_store import load_split
from cache.store import Store
from recognizer_svc.data import check_boxes
from recognizer_svc.predict import BoxesOfKeyFrame, Predictor
from recognizer_svc.row_layout import counts_note
from recognizer_svc.row_predictions import ClipToScore, clips_to_score, repeated
from recognizer_svc.service.model_list import ModelInfo
from recognizer_svc.service.models import ModelCache
from recognizer_svc.service.queries import Prediction, PredictQuery, RecognizeQuery
from stal_data.errors import InputError


class Engine:
    """Lives in one thread, which owns the loaded heads and the device."""

    def __init__(self, store: Store, *, device: str, counted: Callable[[bool], None] | None = None) -> None:
        """counted: told for each head asked for whether it was loaded."""
        self._store = store
        self._models = ModelCache(store, device=device, counted=counted)

    def prepare(self, query: PredictQuery) -> Prediction:
        """Find the boxes, the head and the features of a split; scoring starts when `scored` is first asked."""
        clips, notes, dropped = self._clips(query)
        model = self._models.get(query.run_id, query.checkpoint)
        features = model.predictor.open_features(self._store, query.dataset, query.split, query.feature_set or None)
        notes = [*_notes(model.predictor, features), *notes]
        if model.predictor.checkpoint.recipe.data.layout != query.layout:
            notes.append(
                f"the head was trained in the layout {model.predictor.checkpoint.recipe.data.layout} and predicts in "
                f"{query.layout}; --layout chooses"
            )
        if dropped:
            notes.append(f"{dropped} boxes without area are left out")
        return Prediction(
            model=model.info,
            feature_set=features.id,
            notes=tuple(notes),
            num_key_frames=len({clip.people.key for clip in clips}),
            num_boxes=sum(len(clip.people.boxes_N4) * clip.repeats for clip in clips),
            scored=repeated(clips, model.predictor.predict(features, [clip.people for clip in clips])),
        )

    def recognize(self, query: RecognizeQuery) -> tuple[ModelInfo, NDArray[np.float32]]:
        """Scores [N, classes] of the boxes."""
        check_boxes(query.key, query.boxes_N4)
        model = self._models.get(query.run_id, query.checkpoint)
        features = model.predictor.open_features(self._store, query.dataset, query.split, query.feature_set or None)
        people = [BoxesOfKeyFrame(key=query.key, boxes_N4=query.boxes_N4)]
        (scored,) = model.predictor.predict(features, people)
        return model.info, scored.scores_NC

    def _clips(self, query: PredictQuery) -> tuple[list[ClipToScore], list[str], int]:
        """The clips that have boxes, what to say about them, and how many boxes were left out."""
        split = load_split(self._store, query.dataset, query.split)
        if query.proposals is None:
            if not split.annotated:
                raise InputError(f"{query.dataset}/{query.split} has no annotations; predict on proposals instead.")
            boxes = {item.key: item.boxes_N4 for item in split.key_frames}
        else:
            proposals = open_proposals(self._store, query.dataset, query.split, query.proposals or None)
            boxes = {item.key: proposals.of(item.key)[0] for item in split.key_frames}
        clips, dropped = [], 0
        for clip in clips_to_score(split, boxes, query.layout, alone=query.proposals is None):
            boxes_N4 = clip.people.boxes_N4
            # A detector's box may have collapsed at the frame's edge; there is nothing in it to look at.
            real_N = (boxes_N4[:, 2:] > boxes_N4[:, :2]).all(axis=1)
            dropped += int((~real_N).sum())
            if real_N.any():
                people = BoxesOfKeyFrame(key=clip.people.key, boxes_N4=boxes_N4[real_N])
                clips.append(replace(clip, people=people))
        note = counts_note(split) if query.layout == "rows" else None
        return clips, [note] if note else [], dropped


def _notes(predictor: Predictor, features: FeatureSet) -> list[str]:
    different = predictor.check_spec(features)
    if not different:
        return []
    return [f"feature set {features.id} differs from that of the training (training / here): {', '.join(different)}"]
