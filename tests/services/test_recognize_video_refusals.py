"""What RecognizeVideo refuses, and how much of a video it takes at a time."""

import asyncio
import io
from collections.abc import AsyncIterator, Iterable

import grpc
import numpy as np
import pytest
from PIL import Image

from cache.backbones.load import load_backbone
from protos.generated import recognizer_pb2 as pb
from recognizer_svc.video.client import VideoItem, VideoPicture
from stal_data.errors import ConflictError, InputError, NotFoundError
from svc_common.client import call_metadata
from svc_common.errors import BusyError
from tests.services.video_case import LOADERS, TIMES_MS, Serving, VideoCase, serving

Request = pb.RecognizeVideoRequest
BOX = pb.Box(x1=0.1, y1=0.1, x2=0.5, y2=0.9)


def start(**fields: object) -> Request:
    return Request(start=pb.VideoStart(**{"run_id": "plain", "video": "v0", "num_frames": 100_000} | fields))


def png(width: int = 40, height: int = 30) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.zeros((height, width, 3), np.uint8)).save(file, format="png")
    return file.getvalue()


def frame(number: int, image: bytes = png()) -> Request:
    return Request(frame=pb.VideoFrame(number=number, image=image))


def frames(numbers: Iterable[int]) -> list[Request]:
    return [frame(number) for number in numbers]


def people(time_ms: int, *boxes: pb.Box) -> Request:
    return Request(key_frame=pb.KeyFramePeople(time_ms=time_ms, boxes=boxes or [BOX]))


async def sent(requests: Iterable[Request]) -> AsyncIterator[Request]:
    for request in requests:
        yield request


CASES = {
    "no start": ([frame(1)], "first message must be start"),
    "two starts": ([start(), start()], "start after the start; send frame"),
    "empty message": ([start(), Request()], "nothing after the start"),
    "no name": ([start(video="")], "video has 0 characters"),
    "clock": ([start(start_s=float("nan"))], "start_s is nan"),
    "length": ([start(num_frames=-1)], "num_frames is -1"),
    "length twice": ([start(), Request(num_frames=7)], "num_frames is 7, but 100000 was said before"),
    "number": ([start(), frame(0)], "frame.number is 0, but must be 1 to 100000"),
    "behind the end": ([start(num_frames=50), frame(51)], "must be 1 to 50"),
    "frame twice": ([start(), frame(3), frame(3)], "Frame 3 was sent twice"),
    "wrong order": ([start(), frame(300), frame(108)], "Frame 108 was sent after frame 300; it may be 191 frames late"),
    "frame missing": (
        [start(), *frames(range(19, 82, 4)), people(2000)],
        r"v0,0002 needs frames 19 to 81, of which 21, 25, .* \(16 in all\) are not there",
    ),
    "key frame late": ([start(), *frames(range(19, 300, 2)), people(2000)], "needs frames 19 to 81, of which 19, 21"),
    "key frames back": ([start(), people(2000, pb.Box()), people(1000, pb.Box())], "v0,0001 came after one at 2000 ms"),
    "no time": ([start(num_frames=50), people(3000)], "Second 0003 of video 'v0' has no frame"),
    "box": ([start(), people(1000, pb.Box(x1=0.5, y1=0.1, x2=0.2, y2=0.3))], "Box .* of v0,0001 must be"),
    "crowd": ([start(), people(1000, *[BOX] * 501)], "has 501 boxes, but may have 500 at most"),
    "no picture": ([start(), frame(1, b"GIF89a")], "Frame 1 of 'v0' is not a JPEG, PNG"),
    "large picture": ([start(), frame(1, png(8000, 5001))], "Frame 1 of 'v0' is 8000x5001; at most 40000000 pixels"),
    "raw pixels": (
        [start(), Request(frame=pb.VideoFrame(number=1, resized=b"\0" * 7))],
        "Frame 1 of 'v0' has 7 bytes of pixels, but RGB of the sizes",
    ),
}


async def answers_to(it: Serving, requests: Iterable[Request]) -> list[pb.RecognizeVideoResponse]:
    call = it.client._stub.RecognizeVideo(sent(requests), metadata=call_metadata())
    return [answer async for answer in call]


@pytest.mark.parametrize("name", CASES)
async def test_each_mistake_is_named(video_case: VideoCase, name: str) -> None:
    requests, text = CASES[name]
    async with serving(video_case) as it:
        with pytest.raises(grpc.aio.AioRpcError, match=text) as caught:
            await answers_to(it, requests)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        # The next one is served.
        (header,) = await answers_to(it, [start()])
        assert header.header.kept_frames == 192


async def test_key_frames_before_a_mistake_are_answered(video_case: VideoCase) -> None:
    async with serving(video_case) as it:
        call = it.client._stub.RecognizeVideo(
            sent([start(), *frames(range(1, 60)), people(1000), people(900)]), metadata=call_metadata()
        )
        kinds = [(await call.read()).WhichOneof("response") for _ in range(2)]
        assert kinds == ["header", "key_frame"]
        with pytest.raises(grpc.aio.AioRpcError, match="came after one at 1000 ms"):
            await call.read()


@pytest.mark.parametrize(
    ("backbones", "run_id", "error", "text"),
    [
        (LOADERS, "nobody", NotFoundError, "nobody"),
        ((), "plain", ConflictError, "holds no backbones, so it scores cached features only. Start it with"),
        (LOADERS[:1], "plain", ConflictError, r"sees the features of vit tiny \(random:0\).* --backbone vit:tiny=FILE"),
        (
            (LOADERS[0], lambda: load_backbone("vit", weights="random:5", preset="tiny")),
            "plain",
            ConflictError,
            r"does not hold; it holds slowfast tiny \(random:0\), vit tiny \(random:5\)",
        ),
    ],
)
async def test_a_head_whose_features_cannot_be_computed_is_refused_at_the_start(
    video_case: VideoCase, backbones, run_id: str, error: type[Exception], text: str
) -> None:
    async with serving(video_case, backbones=backbones) as it:
        with pytest.raises(error, match=text):
            await anext(it.client.recognize_video(video_case.request(run_id), video_case.items()))


async def test_the_service_says_what_it_holds_and_refuses_more_streams_than_it_may_have(video_case: VideoCase) -> None:
    async def waiting() -> AsyncIterator[VideoItem]:
        await asyncio.Event().wait()
        yield VideoPicture(number=1, picture=b"")

    async with serving(video_case, max_streams=1) as it:
        stream = it.client.recognize_video(video_case.request("plain"), waiting())
        await anext(stream)
        info = await it.client.get_info()
        assert [(held.kind, held.preset, held.weights) for held in info.backbones] == [
            ("slowfast", "tiny", "random:0"),
            ("vit", "tiny", "random:0"),
        ]
        assert (info.streams, info.max_streams) == (1, 1)
        with pytest.raises(BusyError, match="--max-streams allows 1 video at a time, and as many are being scored"):
            await anext(it.client.recognize_video(video_case.request("plain"), video_case.items()))
        await stream.aclose()
        # The place is free again once the service has heard of it.
        async with asyncio.timeout(120):
            while (await it.client.get_info()).streams:
                pass
        found = await video_case.scores(it.client, video_case.request("plain"))
    assert len(found) == len(TIMES_MS)


async def test_a_service_that_is_busy_stops_reading(video_case: VideoCase) -> None:
    """Key frames as fast as they come, from a client that waits for nothing: what is in memory has a bound."""
    taken = 0

    async def endless() -> AsyncIterator[Request]:
        nonlocal taken
        yield start()
        for number in range(1, 20_000):
            taken = number
            yield frame(number, noise)
            if number % 5 == 0 and number > 64:
                yield people(40 * (number - 33))

    noise_HW3 = np.random.default_rng(0).integers(0, 255, (90, 120, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise_HW3).save(file, format="png")
    noise = file.getvalue()
    async with serving(video_case) as it:
        with it.thread_held():
            pass
        call = it.client._stub.RecognizeVideo(endless(), metadata=call_metadata())
        assert (await call.read()).HasField("header")
        with it.thread_held():
            quiet = last = 0
            while quiet < 50:  # round trips without another frame
                await it.client.get_info()
                quiet = quiet + 1 if taken == last else 0
                last = taken
            held = it.metric("stal_video_frames")
            computing = len(next(iter(it.service._scoring.video.streams))._computing)
        assert computing == 8
        assert 64 <= held <= 192
        assert taken < 2000
        assert (await call.read()).HasField("key_frame")
        call.cancel()


async def test_a_frame_that_the_client_cannot_decode_is_named(video_case: VideoCase) -> None:
    async def items() -> AsyncIterator[VideoItem]:
        yield VideoPicture(number=1, picture=b"nothing")

    async with serving(video_case) as it:
        answers = it.client.recognize_video(video_case.request("plain"), items())
        await anext(answers)
        with pytest.raises(InputError, match="Frame 1 is not a JPEG, PNG"):
            await anext(answers)
