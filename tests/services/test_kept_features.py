"""RecognizeVideo with `keep`: the feature set that precompute makes, which other heads then score."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import grpc
import numpy as np
import pytest
import torch

from cache.feature_store import FeatureSet, FeatureWriter, open_feature_set, verify_feature_set
from cache.precompute import PrecomputeOptions, precompute
from cache.proposal_store import open_proposals
from cache.split_store import load_split
from protos.generated import recognizer_pb2 as pb
from recognizer_svc.client import RecognizerClient
from recognizer_svc.video import kept_features, unanswered
from recognizer_svc.video.client import VideoItem, VideoRequest
from recognizer_svc.video.timeline import VideoTime
from stal_data.errors import ConflictError, InputError, NotFoundError
from stal_data.keyframes import KeyFrame, ScoredKeyFrame
from svc_common.client import call_metadata
from tests.cache.object_store.conftest import OpenStore, fill, machine, proxy  # noqa: F401 - fixtures
from tests.services.test_recognize_video import EXACT, of
from tests.services.test_recognize_video_refusals import frames, people, start
from tests.services.video_case import (
    FRAMES,
    LOADERS,
    RUNS,
    TIMES_MS,
    VideoCase,
    scored_by_services_that_end,
    serving,
    worst,
)

HALF_FLOAT = 2e-3
"""Relative; values of float16 have 11 bits."""
TIME = VideoTime(video="v0", num_frames=FRAMES)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of ten key frames: three each, and one alone."""
    monkeypatch.setattr(kept_features, "KEPT_TOGETHER", 3)
    monkeypatch.setattr(unanswered, "KEPT_TOGETHER", 3)


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """A data set of the test's own."""
    return "".join(letter if letter.isalnum() else "-" for letter in request.node.name)[:100]


def keep_as(case: VideoCase, name: str, **changes: object) -> pb.KeptFeatures:
    clip = open_feature_set(case.store, "street", "train").spec.clip
    fields = {
        "dataset": name,
        "split": "all",
        "decoder": case.split.media.decoder,
        "times_ms": TIMES_MS,
        "sources": [case.split.media.digest("v0", TIME.clip_of(time_ms, clip)) for time_ms in TIMES_MS],
        "proposals": "seen",
    }
    return pb.KeptFeatures(**fields | changes)


def request_to(case: VideoCase, run_id: str, name: str, **changes: object) -> VideoRequest:
    return replace(case.request(run_id), keep=keep_as(case, name), **changes)


async def predicted(client: RecognizerClient, run_id: str, name: str) -> dict[KeyFrame, np.ndarray]:
    boxes = pb.ProposedBoxes(name="seen")
    asked = pb.PredictRequest(run_id=run_id, dataset=name, split="all", proposals=boxes)
    answers = [answer async for answer in client.predict(asked)]
    return {answer.key: answer.scores_NC for answer in answers if isinstance(answer, ScoredKeyFrame)}


def assert_complete(case: VideoCase, name: str) -> FeatureSet:
    """All rows are there and sound, as are the people."""
    kept = open_feature_set(case.store, name, "all")
    assert [key.time_ms for key in kept.key_frames] == list(TIMES_MS)
    assert kept.done.all()
    assert verify_feature_set(kept.path) == []
    seen = open_proposals(case.store, name, "all", "seen")
    assert seen.key_frames == kept.key_frames
    for item in case.people("v0"):
        boxes_N4, scores_N = seen.of(KeyFrame("v0", item.time_ms))
        np.testing.assert_array_equal(boxes_N4, item.people.boxes_N4)
        assert np.isnan(scores_N).all()
    return kept


@pytest.mark.parametrize("run_id", RUNS)
async def test_other_heads_score_the_video_without_its_frames(video_case: VideoCase, name: str, run_id: str) -> None:
    async with serving(video_case, max_kept=len(TIMES_MS)) as it:
        found = await video_case.scores(it.client, request_to(video_case, run_id, name), video_case.items())
        assert [key.time_ms for key in found] == list(TIMES_MS)
        again = {other: await predicted(it.client, other, name) for other in RUNS}
        boxes = [pb.Box(x1=x1, y1=y1, x2=x2, y2=y2) for x1, y1, x2, y2 in video_case.people("v0")[5].people.boxes_N4]
        asked = pb.RecognizeRequest(run_id="plain", dataset=name, split="all", video="v0", time_ms=4000, boxes=boxes)
        _, recognized = await it.client.recognize(asked)
    assert worst(found, again[run_id]) <= EXACT
    for other, scores in again.items():
        assert worst(await of(video_case, other), scores) <= EXACT
    np.testing.assert_allclose(recognized, again["plain"][KeyFrame("v0", 4000)], rtol=0, atol=EXACT)


async def test_the_set_is_that_of_precompute(video_case: VideoCase, name: str) -> None:
    async with serving(video_case, max_kept=20) as it:
        await video_case.scores(it.client, request_to(video_case, "plain", name), video_case.items(late=60))
    kept, made = assert_complete(video_case, name), open_feature_set(video_case.store, "street", "train")
    assert kept.spec == made.spec
    for row, key in enumerate(kept.key_frames):
        mine, theirs = kept.read([row]), made.read([made.row_of(key)])
        assert mine.keys() == theirs.keys()
        for array, values in mine.items():
            assert values.dtype == theirs[array].dtype
            close = {"atol": 1} if values.dtype == np.int8 else {"rtol": HALF_FLOAT, "atol": HALF_FLOAT}
            np.testing.assert_allclose(values.astype(float), theirs[array].astype(float), **close)
    # Precompute finds nothing to do, and nothing that differs.
    published = load_split(video_case.store, name, "all")
    split = replace(
        video_case.split,
        dataset=name,
        name="all",
        annotated=False,
        label_map=None,
        key_frames=published.key_frames,
    )
    (found,) = precompute(split, video_case.store, PrecomputeOptions(backbones=[load() for load in LOADERS]))
    assert found.path == kept.path
    assert load_split(video_case.store, name, "all").digest == published.digest


@pytest.mark.parametrize("run_id", ["plain", "seeing"])
async def test_a_client_that_may_hold_little_while_it_waits_holds_what_comes_together(
    video_case: VideoCase, name: str, run_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unanswered, "_MOST_BYTES", 0)
    async with serving(video_case, max_kept=20) as it:
        await video_case.scores(it.client, request_to(video_case, run_id, name), video_case.items(late=60))
    assert_complete(video_case, name)


@pytest.mark.parametrize("grace_s", [0, 60], ids=["killed", "stopped"])
@pytest.mark.parametrize("run_id", ["plain", "seeing"])
async def test_another_service_completes_the_set(video_case: VideoCase, name: str, run_id: str, grace_s: float) -> None:
    request = request_to(video_case, run_id, name)
    async with scored_by_services_that_end(video_case, request, grace_s=grace_s, max_kept=20) as (found, client):
        assert worst(found, await predicted(client, run_id, name)) <= EXACT
    assert_complete(video_case, name)


async def refusal(it, *requests: pb.RecognizeVideoRequest) -> str:
    async def sent() -> AsyncIterator[pb.RecognizeVideoRequest]:
        for request in requests:
            yield request

    call = it.client._stub.RecognizeVideo(sent(), metadata=call_metadata())
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        async for _ in call:
            pass
    return caught.value.details()


async def test_a_video_that_ends_early_leaves_a_set_that_nobody_takes_for_complete(
    video_case: VideoCase, name: str
) -> None:
    async def broken() -> AsyncIterator[VideoItem]:
        async for item in video_case.items():
            if getattr(item, "number", 0) == 140:
                raise OSError("the camera is gone")
            yield item

    async with serving(video_case, max_kept=20) as it:
        answers = it.client.recognize_video(request_to(video_case, "plain", name), broken())
        await anext(answers)
        # The clip of the sixth key frame is there, and that of the seventh, which would end the third shard, is not.
        assert [(await anext(answers)).key.time_ms for _ in range(6)] == list(TIMES_MS[:6])
        with pytest.raises(OSError, match="the camera is gone"):
            await anext(answers)
        kept = open_feature_set(video_case.store, name, "all")
        assert kept.done.tolist() == [True] * 6 + [False] * 4
        with pytest.raises(NotFoundError, match="is not among the 6 of the proposals 'seen'"):
            await predicted(it.client, "plain", name)
        # The stream can go on behind the last answer, and from no later.
        late = request_to(video_case, "plain", name, answered_ms=TIMES_MS[6])
        with pytest.raises(ConflictError, match=r"v0,0004.52 was answered .*, but not kept .* from its beginning"):
            await anext(it.client.recognize_video(late, video_case.items()))
        on = request_to(video_case, "plain", name, answered_ms=TIMES_MS[5])

        async def rest() -> AsyncIterator[VideoItem]:
            async for item in video_case.items():
                if getattr(item, "time_ms", TIMES_MS[-1]) > TIMES_MS[5]:
                    yield item

        assert [key.time_ms for key in await video_case.scores(it.client, on, rest())] == list(TIMES_MS[6:])
        assert_complete(video_case, name)
        # What is complete is not written again.
        before = {path: path.stat().st_mtime_ns for path in kept.path.rglob("*") if path.is_file()}
        await video_case.scores(it.client, request_to(video_case, "plain", name), video_case.items())
        assert before == {path: path.stat().st_mtime_ns for path in kept.path.rglob("*") if path.is_file()}


REFUSED = {
    "path": ({"dataset": "../x"}, "keep.dataset is '../x', but must start with a letter"),
    "split": ({"split": ""}, "keep.split is ''"),
    "proposals": ({"proposals": "a/b"}, "keep.proposals is 'a/b'"),
    "too many": ({"times_ms": range(0, 2100, 100), "sources": [0] * 21}, "has 21 key frames, but must have 1 to 20"),
    "none": ({"times_ms": [], "sources": []}, "has 0 key frames, but must have 1 to 20"),
    "order": ({"times_ms": [40, 0], "sources": [0, 0]}, "keep.times_ms must be in the order of time"),
    "sources": ({"sources": [1]}, "keep.sources has 1 digests, but must have one for each of 10 times"),
    "decoder": ({"decoder": "x" * 201}, "keep.decoder has 201 characters"),
    "behind the end": (
        {"dataset": "new", "times_ms": [9000], "sources": [0]},
        "Second 0009 of video 'v0' has no frame",
    ),
    "annotated": ({"dataset": "street", "split": "train"}, "split street/train has labels or other key frames"),
    "other key frames": ({"times_ms": [0], "sources": [0]}, "taken/all has labels or other key frames"),
    "other frames": (
        {"sources": range(10)},
        "made from something else .* source .the frames' content. of 10 key",
    ),
}


@pytest.fixture(scope="module")
def taken(video_case: VideoCase) -> str:
    """A data set that is there."""

    async def keep() -> None:
        async with serving(video_case, max_kept=20) as it:
            await video_case.scores(it.client, request_to(video_case, "plain", "taken"), video_case.items())

    asyncio.run(keep())
    return "taken"


@pytest.mark.parametrize("case", REFUSED)
async def test_what_cannot_be_kept_is_refused_before_the_first_frame(
    video_case: VideoCase, taken: str, case: str
) -> None:
    changes, text = REFUSED[case]
    there = {path for path in video_case.store.root.rglob("*") if ".locks" not in path.parts}
    async with serving(video_case, max_kept=20) as it:
        keep = keep_as(video_case, taken, **changes)
        with pytest.raises((InputError, ConflictError), match=text):
            await anext(it.client.recognize_video(replace(video_case.request("plain"), keep=keep), never()))
    assert there == {path for path in video_case.store.root.rglob("*") if ".locks" not in path.parts}
    assert_complete(video_case, taken)


async def never() -> AsyncIterator[VideoItem]:
    raise AssertionError("a frame was asked for")
    yield


async def test_a_service_keeps_features_only_where_its_operator_wants_it(video_case: VideoCase, name: str) -> None:
    async with serving(video_case) as it:
        with pytest.raises(ConflictError, match="writes no features of videos to its store; start it with --keep-feat"):
            await anext(it.client.recognize_video(request_to(video_case, "plain", name), never()))
    with pytest.raises(InputError, match="sending is jpeg"):
        request_to(video_case, "plain", name, sending="jpeg")
    assert not (video_case.store.root / "features" / name).exists()


async def test_key_frames_that_are_left_out_are_named(video_case: VideoCase, name: str) -> None:
    keep = keep_as(video_case, name)
    async with serving(video_case, max_kept=20) as it:
        begun = start(num_frames=FRAMES, keep=keep)
        text = await refusal(it, begun, *frames(range(1, 60)), people(440))
        assert "Key frame v0,0000.44 was sent, but the next one of keep.times_ms is v0,0000" in text
        text = await refusal(it, begun, *frames(range(1, 60)), people(0), people(1000))
        assert "Key frame v0,0001 was sent, but the next one of keep.times_ms is v0,0000.44" in text
        text = await refusal(it, begun, *frames(range(1, 60)), people(0), people(440), people(1000))
        assert "The video ended before the last key frame of keep.times_ms" in text
        assert "num_frames is not set" in await refusal(it, start(num_frames=0, keep=keep))
        # Precompute makes longer shards, in which more answers would wait than can.
        long = keep_as(video_case, name, dataset=f"{name}-long")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(kept_features, "KEPT_TOGETHER", 10)
            await refusal(it, start(num_frames=FRAMES, keep=long), people(440))
        text = await refusal(it, start(num_frames=FRAMES, keep=long))
        assert "10 key frames are written at a time, but only 3 can wait" in text


async def test_a_shard_that_another_writes_is_left_to_it_and_the_client_comes_again(
    video_case: VideoCase, name: str
) -> None:
    async with serving(video_case, max_kept=20) as it:
        begun = start(num_frames=FRAMES, keep=keep_as(video_case, name))
        await refusal(it, begun)
        writer = FeatureWriter(open_feature_set(video_case.store, name, "all").path)
        with writer.claim_or_refuse(0):
            sent = (begun, *frames(range(1, 60)), people(0), people(440), people(1000))
            assert "the features are being written by process" in await refusal(it, *sent)
        await video_case.scores(it.client, request_to(video_case, "plain", name), video_case.items())
    assert_complete(video_case, name)


async def test_a_store_in_a_bucket_keeps_them_for_other_machines(
    video_case: VideoCase,
    name: str,
    fill: Callable[[Path], None],  # noqa: F811
    machine: OpenStore,  # noqa: F811
) -> None:
    fill(video_case.store.root)
    case = replace(video_case, store=machine())
    async with serving(case, max_kept=20) as it:
        found = await case.scores(it.client, request_to(case, "plain", name), case.items())
    other = replace(video_case, store=machine("other"))
    assert assert_complete(other, name).in_bucket
    async with serving(other, backbones=()) as it:
        assert worst(found, await predicted(it.client, "plain", name)) <= EXACT
