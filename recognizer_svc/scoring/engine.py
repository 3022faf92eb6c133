"""What the scoring thread does: boxes and features from the store, scores from a loaded head. Imports torch."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from cache.feature_store import FeatureSet
from cache.proposal_store import Proposals, open_proposals
from cache.split_store import PublishedSplit, load_split
from cache.store import Store
from recognizer_svc.boxes import check_boxes
from recognizer_svc.people import People
from recognizer_svc.runs.store import RunStore
from recognizer_svc.runs.time_limited_bucket import TimeLimitedBucket
from recognizer_svc.scoring.around import surroundings_of, with_surroundings
from recognizer_svc.scoring.combined import combined_scores
from recognizer_svc.scoring.micro_batch import Scored
from recognizer_svc.scoring.models import LoadedModel, ModelCache
from recognizer_svc.scoring.open_features import OpenFeatures
from recognizer_svc.scoring.predict import BoxesOfKeyFrame, Predictor
from recognizer_svc.scoring.queries import Prediction, PredictQuery, RecognizeQuery
from recognizer_svc.scoring.row_predictions import ClipToScore, clips_to_score, repeated
from recognizer_svc.scoring.served_models import ServedModels
from recognizer_svc.training.row_layout import counts_note
from stal_data.amounts import amount
from stal_data.errors import InputError, StalError
from stal_data.keyframes import KeyFrame

RUN_EVERY_S = 5.0
"""How late Recognize notices that a run in a bucket has trained on."""


class Engine:
    """Lives in one thread, which owns the loaded heads and the device."""

    def __init__(
        self, store: Store, *, device: str, served: ServedModels, counted: Callable[[bool], None] | None = None
    ) -> None:
        """served: heads that Recognize keeps to. counted: told for each other head asked for whether it was loaded."""
        self._store, self.device = store, device
        self._runs = RunStore.of(store)
        self._models = ModelCache(store, device=device, counted=counted)
        self._served = served
        # A bucket that is gone must not hold up this thread for minutes at each call.
        self._bucket = TimeLimitedBucket(store)
        self._features = OpenFeatures(store, self._bucket)

    def prepare(self, query: PredictQuery) -> Prediction:
        """Find the boxes, the head and the features of a split; scoring starts when `scored` is first asked."""
        self._fetch(query.run_id)
        if (silence := self._bucket.silence()) is not None:
            raise silence
        split = load_split(self._store, query.dataset, query.split)
        people, proposals = self._people(query, split)
        clips, notes, dropped = _clips(query, split, people)
        model = self._models.get(query.run_id, query.checkpoint)
        features = model.predictor.open_features(self._store, query.dataset, query.split, query.feature_set or None)
        clips, more = with_surroundings(model.predictor, clips, people)
        notes = [*_notes(model.predictor, features), *notes, *more]
        if model.predictor.checkpoint.recipe.data.layout != query.layout:
            notes.append(
                f"the head was trained in the layout {model.predictor.checkpoint.recipe.data.layout} and predicts in "
                f"{query.layout}; --layout chooses"
            )
        if dropped:
            notes.append(f"{amount(dropped, 'box')} without area left out")
        shown = [clip.people for clip in clips]
        scored, how = combined_scores(self._store, model.predictor, query, features, shown, proposals)
        return Prediction(
            model=model.info,
            feature_set=features.id,
            notes=(*notes, *how),
            num_key_frames=len({clip.people.key for clip in clips}),
            num_boxes=sum(len(clip.people.boxes_N4) * clip.repeats for clip in clips),
            scored=repeated(clips, scored, with_persons=proposals is not None and proposals.tracks is not None),
        )

    def recognize(self, queries: Sequence[RecognizeQuery]) -> list[Scored | StalError]:
        """The head and scores [N, classes] of the boxes of each query of one source, or what is wrong with it.

        Each key frame of each query is a clip of its own, so nobody's boxes see those of another query.
        """
        first = queries[0]
        model = self.head(first.run_id, first.checkpoint)
        features = self._features.get(model, first.dataset, first.split, first.feature_set)
        answers: dict[int, Scored | StalError] = {}
        people: dict[int, BoxesOfKeyFrame] = {}
        for number, query in enumerate(queries):
            try:
                people[number] = _checked(query, model.predictor, features)
            except StalError as error:
                answers[number] = error
        if features.in_bucket and (silence := self._bucket.silence()) is not None:
            raise silence
        try:
            scored = list(model.predictor.predict(features, people.values()))
        except StalError as error:
            if len(queries) == 1:
                return [error]
            if self._bucket.silence() is not None:
                return [error] * len(queries)
            # Rows that are damaged or not computed are only noticed when they are read; the others go on.
            return [answer for query in queries for answer in self.recognize([query])]
        answers |= {number: (model.info, item.scores_NC) for number, item in zip(people, scored, strict=True)}
        return [answers[number] for number in range(len(queries))]

    def head(self, run_id: str, checkpoint: str) -> LoadedModel:
        """Return the head that was loaded by this name, else that of the run as it is now."""
        model = self._served.get(run_id, checkpoint)
        if model is None:
            self._fetch(run_id, every_s=RUN_EVERY_S)
            model = self._models.get(run_id, checkpoint)
        return model

    def _fetch(self, run_id: str, *, every_s: float = 0.0) -> None:
        """Bring the newer copy that the bucket may have.

        When that fails, the copy that is here is kept; an error only where there is none with a head.
        """
        run, what = self._runs.run(run_id), f"whether run '{run_id}' has trained on"
        failed = self._bucket.ask(what, lambda store: RunStore.of(store).fetch(run_id), every_s=every_s)
        # A folder alone may be what a copy has left that did not fit the disk.
        if failed is not None and not run.present_checkpoints():
            raise StalError(str(failed))

    def close_old(self) -> None:
        """Let go of feature sets that were opened a while ago."""
        self._features.close_old()

    def _people(self, query: PredictQuery, split: PublishedSplit) -> tuple[dict[KeyFrame, People], Proposals | None]:
        if query.proposals is None:
            if not split.annotated:
                raise InputError(f"{query.dataset}/{query.split} has no annotations; predict on proposals instead.")
            return {item.key: People.of(item.boxes_N4, item.persons) for item in split.key_frames}, None
        proposals = open_proposals(self._store, query.dataset, query.split, query.proposals or None)
        return {
            item.key: People.of(proposals.of(item.key)[0], proposals.track_ids_of(item.key))
            for item in split.key_frames
        }, proposals


def _clips(
    query: PredictQuery, split: PublishedSplit, people: Mapping[KeyFrame, People]
) -> tuple[list[ClipToScore], list[str], int]:
    """The clips that have boxes, what to say about them, and how many boxes were left out."""
    clips, dropped = [], 0
    for clip in clips_to_score(split, people, query.layout, alone=query.proposals is None):
        # A detector's box may have collapsed at the frame's edge; there is nothing in it to look at.
        real_N = People.of(clip.people.boxes_N4).with_area
        dropped += int((~real_N).sum())
        if real_N.any():
            clips.append(replace(clip, people=clip.people.only(real_N)))
    note = counts_note(split) if query.layout == "rows" else None
    return clips, [note] if note else [], dropped


def _checked(query: RecognizeQuery, predictor: Predictor, features: FeatureSet) -> BoxesOfKeyFrame:
    """What to score, after a check of everything but the rows' content."""
    check_boxes(query.key, query.boxes_N4)
    features.row_of(query.key)
    around = surroundings_of(predictor, query)
    for key in () if around is None else around.occupied(query.key):
        features.row_of(key)
    return BoxesOfKeyFrame(key=query.key, boxes_N4=query.boxes_N4, persons_N=query.persons_N, around=around)


def _notes(predictor: Predictor, features: FeatureSet) -> list[str]:
    different = predictor.check_spec(features)
    if not different:
        return []
    return [f"feature set {features.id} differs from that of the training (training / here): {', '.join(different)}"]
