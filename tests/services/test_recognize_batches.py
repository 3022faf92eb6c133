"""Recognize calls that wait share a pass of the head, and none of them notices."""

import asyncio
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch
from prometheus_client import CollectorRegistry

from cache.feature_store import open_feature_set
from cache.split_store import load_split
from cache.store import Store
from recognizer_svc.people import People
from recognizer_svc.scoring import micro_batch, open_features
from recognizer_svc.scoring.metrics import ScoringMetrics
from recognizer_svc.scoring.predict import MAX_ACTORS, MAX_CLIPS
from recognizer_svc.scoring.queries import RecognizeQuery
from recognizer_svc.scoring.scoring_thread import Scoring
from stal_data.errors import InputError, NotFoundError
from stal_data.keyframes import KeyFrame
from svc_common.errors import DeadlineError
from svc_common.fair_queue import LIVE_SHARE, Flow
from tests.services.conftest import TRAINED, Trained

FOREVER = float("inf")
FLOW = Flow("connection", "batch")


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@contextmanager
def scoring_on(store: Store, **options: int) -> Iterator[tuple[Scoring, CollectorRegistry]]:
    registry = CollectorRegistry()
    scoring = Scoring(store, device="cpu", max_requests=100, metrics=ScoringMetrics(registry), **options)
    try:
        yield scoring, registry
    finally:
        scoring.close()


def queries(store: Store, *, boxes: int, seed: int = 0) -> list[RecognizeQuery]:
    """One on each key frame of the toy test split, with random boxes."""
    random = np.random.default_rng(seed)
    return [
        RecognizeQuery(
            run_id=TRAINED,
            checkpoint="",
            dataset="toy",
            split="test",
            key=item.key,
            boxes_N4=np.sort(random.random((boxes, 2, 2), np.float32), axis=1).reshape(boxes, 4),
            feature_set="",
        )
        for item in load_split(store, "toy", "test").key_frames
    ]


async def together(scoring: Scoring, wanted: list[RecognizeQuery]) -> list[object]:
    """The answers to calls that all came while the thread was busy."""
    release = threading.Event()
    scoring._thread.submit(release.wait)
    calls = [asyncio.create_task(scoring.recognize(query, FOREVER, FLOW)) for query in wanted]
    await asyncio.sleep(0)
    release.set()
    return await asyncio.gather(*calls, return_exceptions=True)


async def test_waiting_calls_share_a_pass_and_get_what_they_would_get_alone(trained: Trained) -> None:
    wanted = [query for seed in range(2) for query in queries(trained.store, boxes=3, seed=seed)]
    with scoring_on(trained.store) as (scoring, registry):
        alone = [await scoring.recognize(query, FOREVER, FLOW) for query in wanted]
        before = registry.get_sample_value("stal_scoring_batch_calls_count")
        found = await together(scoring, wanted)
        passes = registry.get_sample_value("stal_scoring_batch_calls_count") - before
    assert before == len(wanted)
    assert passes == -(-len(wanted) // micro_batch.MAX_CALLS) < len(wanted)
    for (model, scores_NC), (expected_model, expected_NC) in zip(found, alone, strict=True):
        assert model == expected_model
        # Rows do not see each other; only the order in which a matrix product adds up may differ.
        np.testing.assert_allclose(scores_NC, expected_NC, rtol=1e-5, atol=1e-7)


async def test_bounds_of_a_pass_hold(trained: Trained) -> None:
    (first, *_) = queries(trained.store, boxes=micro_batch.MAX_BOXES // 2)
    with scoring_on(trained.store) as (scoring, registry):
        await together(scoring, [first] * 5)
        assert registry.get_sample_value("stal_scoring_batch_calls_count") == 3
        assert registry.get_sample_value("stal_scoring_batch_boxes_sum") == 5 * len(first.boxes_N4)
    with scoring_on(trained.store, max_batch=1) as (scoring, registry):
        await together(scoring, [first] * 3)
        assert registry.get_sample_value("stal_scoring_batch_calls_count") == 3
    crowd = People.of(np.tile(first.boxes_N4[:1], (micro_batch.MAX_BOXES_AROUND // 2 + 1, 1)))
    around = replace(queries(trained.store, boxes=1)[0], neighbours={KeyFrame("video0", 1000): crowd})
    with scoring_on(trained.store) as (scoring, registry):
        await together(scoring, [around] * 3)
        assert registry.get_sample_value("stal_scoring_batch_calls_count") == 3
    assert (micro_batch.MAX_CALLS, micro_batch.MAX_BOXES) == (MAX_CLIPS, MAX_ACTORS)


def order(trained: Trained, calls: dict[Flow, list[int]]) -> list[Flow]:
    """Whose calls are computed one after another. calls: the boxes of each; all came while the thread was busy."""
    (first, *_) = queries(trained.store, boxes=micro_batch.MAX_BOXES)
    release, computed = threading.Event(), []
    with ThreadPoolExecutor(1) as thread:
        batches = micro_batch.recognize_batches(
            thread, lambda taken: computed.extend(taken) or [None], ScoringMetrics(CollectorRegistry()), max_calls=1
        )
        thread.submit(release.wait)
        for flow, boxes in calls.items():
            for number in boxes:
                batches.add(replace(first, run_id=str(flow), boxes_N4=first.boxes_N4[:number]), FOREVER, flow)
        release.set()
    names = {str(flow): flow for flow in calls}
    return [names[query.run_id] for query in computed]


def test_connections_take_turns(trained: Trained) -> None:
    many, few = Flow("many", "batch"), Flow("few", "batch")
    assert order(trained, {many: [1] * 6, few: [1, 1]}) == [many, few, many, few, *[many] * 4]


def test_a_call_with_many_boxes_counts_as_several(trained: Trained) -> None:
    large, small = Flow("large", "batch"), Flow("small", "batch")
    assert order(trained, {large: [micro_batch.MAX_BOXES], small: [1] * 12}) == [*[small] * 7, large, *[small] * 5]


def test_live_calls_go_first(trained: Trained) -> None:
    live, batch = Flow("live", "live"), Flow("batch", "batch")
    found = order(trained, {batch: [1] * 3, live: [1] * (LIVE_SHARE + 1)})
    assert found == [*[live] * LIVE_SHARE, batch, live, batch, batch]


async def test_a_bad_call_does_not_hurt_the_others(trained: Trained) -> None:
    (good, *_) = queries(trained.store, boxes=2)
    outside = replace(good, boxes_N4=np.array([[0.5, 0, 1.5, 1]], np.float32))
    absent = replace(good, key=KeyFrame("video0", 99000))
    other_run = replace(good, run_id="nobody")
    with scoring_on(trained.store) as (scoring, _):
        found = await together(scoring, [good, outside, absent, other_run, good])
    assert [type(answer) for answer in found] == [tuple, InputError, NotFoundError, NotFoundError, tuple]
    np.testing.assert_array_equal(found[0][1], found[4][1])


async def test_a_damaged_row_fails_its_own_call_only(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    good, damaged, *_ = queries(trained.store, boxes=2)
    row = open_feature_set(trained.store, "toy", "test").row_of(damaged.key)
    read = open_features.FeatureSet.read

    def read_damaged(self, rows, arrays=None):
        if row in list(rows):
            raise InputError(f"Row {row} is damaged")
        return read(self, rows, arrays)

    monkeypatch.setattr(open_features.FeatureSet, "read", read_damaged)
    with scoring_on(trained.store) as (scoring, _):
        found = await together(scoring, [good, damaged, good])
    assert [type(answer) for answer in found] == [tuple, InputError, tuple]


async def test_late_and_cancelled_calls_are_not_computed(trained: Trained) -> None:
    (query, *_) = queries(trained.store, boxes=2)
    release = threading.Event()
    with scoring_on(trained.store) as (scoring, registry):
        scoring._thread.submit(release.wait)
        late = asyncio.create_task(scoring.recognize(query, time.monotonic(), FLOW))
        gone = asyncio.create_task(scoring.recognize(query, FOREVER, FLOW))
        good = asyncio.create_task(scoring.recognize(query, FOREVER, FLOW))
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.sleep(0)
        release.set()
        with pytest.raises(DeadlineError):
            await late
        assert (await good)[1].shape[0] == 2
        assert registry.get_sample_value("stal_scoring_batch_calls_sum") == 1
        assert registry.get_sample_value("stal_scoring_requests") == 0


async def test_feature_sets_stay_open_for_a_while_only(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    (query, *_) = queries(trained.store, boxes=2)
    opened = []
    count = open_features.FeatureSet.__init__

    def counted(self, path):
        opened.append(path)
        count(self, path)

    monkeypatch.setattr(open_features.FeatureSet, "__init__", counted)
    with scoring_on(trained.store) as (scoring, _):
        for _ in range(3):
            await scoring.recognize(query, FOREVER, FLOW)
        assert len(opened) == 1
        monkeypatch.setattr(open_features, "KEPT_S", 0.0)
        await scoring.recognize(query, FOREVER, FLOW)
        assert len(opened) == 2
        scoring._close_features()
        await asyncio.wrap_future(scoring._thread.submit(int))
        assert not scoring._engine._features._open
