"""A model that hangs, or fails on everything for long, takes its service out, so that a supervisor starts another."""

import asyncio
import threading
import urllib.error
import urllib.request
from collections.abc import AsyncIterable, AsyncIterator, Sequence
from pathlib import Path

import grpc
import pytest

from detector_svc.detections import FrameDetections
from detector_svc.detector_protocol import PreparedImage
from detector_svc.yolo.yolo_detector import YoloDetector
from protos.generated import detector_pb2 as pb
from protos.generated import detector_pb2_grpc as rpc
from stal_data.errors import InputError
from svc_common.client import open_channel
from svc_common.config import ClientConfig
from tests.detector.samples import encoded, picture, serving


def status(port: int | None, path: str) -> int:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=60) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code


async def frame() -> AsyncIterator[pb.DetectRequest]:
    yield pb.DetectRequest(frame_id="a", image=encoded(picture(1)))


@pytest.mark.parametrize(
    ("how", "frames", "reason"),
    [
        ("hangs", 1, "the model has been at one batch for 0.5 s"),
        ("fails", 3, "the model has failed on the last 3 batches"),
    ],
)
async def test_a_service_whose_model_is_lost_is_not_live(
    weights: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, how: str, frames: int, reason: str
) -> None:
    release = threading.Event()

    def lost(self: YoloDetector, images: Sequence[PreparedImage]) -> list[FrameDetections]:
        if how == "hangs":
            release.wait(60)
        raise RuntimeError("CUDA error: unspecified launch failure")

    async with serving(weights, hung_s=0.5, failed_batches=3, failing_s=0.0) as server:
        monkeypatch.setattr(YoloDetector, "detect", lost)  # it has loaded and warmed up
        try:
            async with (
                open_channel(ClientConfig(address=f"127.0.0.1:{server.port}")) as channel,
                asyncio.timeout(60),
            ):
                for _ in range(frames):
                    assert await asyncio.to_thread(status, server.metrics_port, "/live") == 200
                    with pytest.raises(grpc.aio.AioRpcError) as caught:
                        [answer async for answer in rpc.DetectorStub(channel).Detect(frame())]
                    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
            for path in ("/live", "/ready"):
                assert await asyncio.to_thread(status, server.metrics_port, path) == 503
        finally:
            release.set()
    assert reason in caplog.text


async def test_a_service_whose_decoding_hangs_is_not_live(
    weights: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    release = threading.Event()

    def hangs(*_: object) -> None:
        release.wait(60)
        raise InputError("released")

    async with serving(weights, decode_hung_s=0.5) as server:
        monkeypatch.setattr(YoloDetector, "prepare", hangs)  # runs where frames are decoded
        try:
            async with open_channel(ClientConfig(address=f"127.0.0.1:{server.port}")) as channel, asyncio.timeout(60):
                call = rpc.DetectorStub(channel).Detect(frame())
                reading = asyncio.create_task(anext(aiter(call)))
                while await asyncio.to_thread(status, server.metrics_port, "/live") == 200:
                    pass
                assert await asyncio.to_thread(status, server.metrics_port, "/ready") == 503
                release.set()
                await reading
        finally:
            release.set()
    assert "a decode thread has been at one job" in caplog.text


@pytest.mark.parametrize(("step", "name"), [("open_split", "split"), ("key_frame_image", "frame")])
async def test_a_service_whose_disk_hangs_is_not_live(
    weights: Path,
    dataset: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    step: str,
    name: str,
) -> None:
    release = threading.Event()
    monkeypatch.setattr(f"detector_svc.service.detector_service.{step}", lambda *_: release.wait(60))
    try:
        async with (
            asyncio.timeout(60),
            serving(weights, data_root=dataset.parent, read_hung_s=0.5) as server,
            open_channel(ClientConfig(address=f"127.0.0.1:{server.port}")) as channel,
        ):
            call = rpc.DetectorStub(channel).Propose(pb.ProposeRequest(dataset="small", split="train"))
            reading = asyncio.create_task(_all(call))
            while await asyncio.to_thread(status, server.metrics_port, "/live") == 200:
                pass
            reading.cancel()
    finally:
        release.set()
    assert f"a {name} thread has been at one job" in caplog.text


async def _all(call: AsyncIterable[object]) -> list[object]:
    return [answer async for answer in call]


async def test_splits_that_do_not_open_hold_up_neither_each_other_nor_the_stop(
    weights: Path, dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    release, opening = threading.Event(), []

    def hangs(*words: object) -> None:
        opening.append(words)
        release.wait(60)

    monkeypatch.setattr("detector_svc.service.detector_service.open_split", hangs)
    try:
        async with (
            asyncio.timeout(50),
            serving(weights, data_root=dataset.parent) as server,
            open_channel(ClientConfig(address=f"127.0.0.1:{server.port}")) as channel,
        ):
            stub, request = rpc.DetectorStub(channel), pb.ProposeRequest(dataset="small", split="train")
            calls = [asyncio.create_task(_all(stub.Propose(request))) for _ in range(40)]
            while len(opening) < 2:
                await stub.GetInfo(pb.GetInfoRequest())
            for call in calls:
                call.cancel()
        assert len(opening) == 2
    finally:
        release.set()
