"""Scores from trained heads: everything that computes runs in one thread, in the order of arrival."""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import ParamSpec, TypeVar

import numpy as np
from numpy.typing import NDArray

from cache.feature_store import FeatureSet
from cache.proposal_store import open_proposals
from cache.split_store import load_split
from cache.store import Store
from recognizer_svc.data import check_boxes
from recognizer_svc.predict import BoxesOfKeyFrame, Predictor, ScoredKeyFrame
from recognizer_svc.service.models import ModelCache, ModelInfo, list_models
from stal_data.errors import InputError
from stal_data.keyframes import KeyFrame
from svc_common.errors import BusyError, DeadlineError

P = ParamSpec("P")
T = TypeVar("T")
KEY_FRAMES_PER_BATCH = 64
BOXES_PER_BATCH = 4096  # with 100 classes 1.6 MB, far below the message limit
MAX_BOXES_PER_CALL = 500  # of Recognize


@dataclass(frozen=True, kw_only=True)
class PredictQuery:
    """A whole split. proposals: the detector's name, "" for the only one, None for ground-truth boxes."""

    run_id: str
    checkpoint: str
    dataset: str
    split: str
    proposals: str | None
    feature_set: str


@dataclass(frozen=True, kw_only=True, eq=False)
class RecognizeQuery:
    """A few boxes [N, 4] float32, x1,y1,x2,y2 in [0,1], on one key frame."""

    run_id: str
    checkpoint: str
    dataset: str
    split: str
    key: KeyFrame
    boxes_N4: NDArray[np.float32]
    feature_set: str


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """What a split's scores come from; `scored` yields them and is consumed in the scoring thread."""

    model: ModelInfo
    feature_set: str
    notes: tuple[str, ...]
    num_key_frames: int
    num_boxes: int
    scored: Generator[ScoredKeyFrame]


class Scoring:
    """One thread that owns the loaded heads and the device; the event loop only waits for it."""

    def __init__(self, store: Store, *, device: str, max_requests: int) -> None:
        """max_requests: how many calls may be in progress at once, waiting ones included; more are refused."""
        self._store = store
        self._max_requests = max_requests
        self._requests = 0
        self._models = ModelCache(store, device=device)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="scoring")

    def close(self) -> None:
        """Let the thread finish what it is at; what waits is dropped."""
        self._thread.shutdown(wait=True, cancel_futures=True)

    async def predict(self, query: PredictQuery, deadline: float) -> AsyncGenerator[Prediction | list[ScoredKeyFrame]]:
        """First what the scores come from, then batches of them; key frames without boxes are left out.

        deadline: on the clock of time.monotonic().
        """
        with self._place():
            prediction = await self._run(deadline, self._prepare, query)
            yield prediction
            try:
                while batch := await self._run(deadline, _take, prediction.scored):
                    yield batch
            finally:
                # Closed where it runs; its reader threads end with it.
                with suppress(RuntimeError):  # the service stops
                    self._thread.submit(prediction.scored.close)

    async def recognize(self, query: RecognizeQuery, deadline: float) -> tuple[ModelInfo, NDArray[np.float32]]:
        """Scores [N, classes] of the boxes."""
        with self._place():
            return await self._run(deadline, self._recognize, query)

    async def list_models(self, deadline: float) -> list[ModelInfo]:
        """Runs that can score, newest first."""
        return await self._run(deadline, list_models, self._store)

    @contextmanager
    def _place(self) -> Iterator[None]:
        if self._requests >= self._max_requests:
            raise BusyError(f"{self._requests} scoring calls are in progress, more than --max-requests allows")
        self._requests += 1
        try:
            yield
        finally:
            self._requests -= 1

    async def _run(self, deadline: float, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Do the work in the thread, unless nobody waits for it any more when its turn comes."""

        def in_time() -> T:
            if time.monotonic() > deadline:
                raise DeadlineError("the deadline passed while the call waited for its turn")
            return work(*args, **kwargs)

        return await asyncio.get_running_loop().run_in_executor(self._thread, in_time)

    def _prepare(self, query: PredictQuery) -> Prediction:
        people, notes = self._people(query)
        model = self._models.get(query.run_id, query.checkpoint)
        features = self._open(model.predictor, query.dataset, query.split, query.feature_set)
        return Prediction(
            model=model.info,
            feature_set=features.id,
            notes=(*notes, *_notes(model.predictor, features)),
            num_key_frames=len(people),
            num_boxes=sum(len(item.boxes_N4) for item in people),
            scored=_generate(model.predictor, features, people),
        )

    def _people(self, query: PredictQuery) -> tuple[list[BoxesOfKeyFrame], list[str]]:
        """The boxes of the split's key frames, and what was left out of them."""
        split = load_split(self._store, query.dataset, query.split)
        if query.proposals is None:
            if not split.annotated:
                raise InputError(f"{query.dataset}/{query.split} has no annotations; predict on proposals instead.")
            boxes = {item.key: item.boxes_N4 for item in split.key_frames}
        else:
            proposals = open_proposals(self._store, query.dataset, query.split, query.proposals or None)
            boxes = {item.key: proposals.of(item.key)[0] for item in split.key_frames}
        people, dropped = [], 0
        for key, boxes_N4 in boxes.items():
            # A detector's box may have collapsed at the frame's edge; it has no features.
            real_N = (boxes_N4[:, 2:] > boxes_N4[:, :2]).all(axis=1)
            dropped += int((~real_N).sum())
            if real_N.any():
                people.append(BoxesOfKeyFrame(key=key, boxes_N4=boxes_N4[real_N]))
        return people, [f"{dropped} boxes without area are left out"] * bool(dropped)

    def _recognize(self, query: RecognizeQuery) -> tuple[ModelInfo, NDArray[np.float32]]:
        if not 0 < len(query.boxes_N4) <= MAX_BOXES_PER_CALL:
            raise InputError(f"{len(query.boxes_N4)} boxes were given, but must be 1 to {MAX_BOXES_PER_CALL}.")
        check_boxes(query.key, query.boxes_N4)
        model = self._models.get(query.run_id, query.checkpoint)
        features = self._open(model.predictor, query.dataset, query.split, query.feature_set)
        people = [BoxesOfKeyFrame(key=query.key, boxes_N4=query.boxes_N4)]
        (scored,) = model.predictor.predict(features, people)
        return model.info, scored.scores_NC

    def _open(self, predictor: Predictor, dataset: str, split: str, set_id: str) -> FeatureSet:
        return predictor.open_features(self._store, dataset, split, set_id or None)


def _take(scored: Iterator[ScoredKeyFrame]) -> list[ScoredKeyFrame]:
    """The next message's key frames; none at the end."""
    taken: list[ScoredKeyFrame] = []
    boxes = 0
    while len(taken) < KEY_FRAMES_PER_BATCH and boxes < BOXES_PER_BATCH and (item := next(scored, None)) is not None:
        taken.append(item)
        boxes += len(item.boxes_N4)
    return taken


def _generate(predictor: Predictor, features: FeatureSet, people: list[BoxesOfKeyFrame]) -> Generator[ScoredKeyFrame]:
    yield from predictor.predict(features, people)


def _notes(predictor: Predictor, features: FeatureSet) -> list[str]:
    different = predictor.check_spec(features)
    return [
        f"feature set {features.id} differs from that of the training (training / here): {', '.join(different)}"
    ] * bool(different)
