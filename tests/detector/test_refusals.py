"""What the detector refuses, and that it then serves as before."""

import asyncio
import struct
import warnings
import zlib
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
from PIL import Image

from detector_svc.service.detect_stream import DetectStream
from detector_svc.service.micro_batcher import BatcherConfig, BatcherMetrics, MicroBatcher
from protos.generated import detector_pb2 as pb
from protos.generated import detector_pb2_grpc as rpc
from stal_data.errors import InputError, NotFoundError
from stal_data.media.images import decode_image
from svc_common.client import open_channel
from svc_common.config import ClientConfig
from svc_common.errors import ServiceUnavailableError
from svc_common.fair_queue import Flow
from svc_common.metrics import Metrics
from tests.detector.samples import encoded, make_client, numbered, picture, serving
from tests.services.hostile import PATH_TRICKS

SIDE = 100_000


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int) -> bytes:
    """Some kilobytes that claim to be that large, and begin to be."""
    rows = zlib.compress(bytes(1 << 22), 9)
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def jpeg(width: int, height: int) -> bytes:
    """A small JPEG whose head tells another size."""
    data = bytearray(encoded(picture(1, 32, 32), "JPEG"))
    start = data.index(b"\xff\xc0") + 5
    data[start : start + 4] = struct.pack(">HH", height, width)
    return bytes(data)


def webp(width: int, height: int) -> bytes:
    """An extended WebP with that canvas."""
    canvas = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    body = b"WEBP" + b"VP8X" + struct.pack("<I", 10) + bytes(4) + canvas
    return b"RIFF" + struct.pack("<I", len(body)) + body


BOMBS = {
    "png": png(SIDE, SIDE),
    "png below Pillow's own limit": png(12_000, 12_000),
    "jpeg": jpeg(65_535, 65_535),
    "webp": webp(SIDE, SIDE),
    "png without pixels": png(0, 5),
    "png of largest size": png(2**31 - 1, 2**31 - 1),
}


@pytest.mark.parametrize("name", BOMBS)
@pytest.mark.parametrize("strict", [True, False], ids=["warnings are errors", "warnings are printed"])
def test_a_bomb_is_refused_before_its_pixels_are_decoded(
    name: str, strict: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(image: Image.Image, *args: object) -> None:
        pytest.fail(f"{name} was decoded")

    monkeypatch.setattr(Image.Image, "convert", never)
    with warnings.catch_warnings():
        warnings.simplefilter("error" if strict else "ignore")
        with pytest.raises(InputError, match="Frame 'a'"):
            decode_image(BOMBS[name], "Frame 'a'")


async def test_bombs_are_answered_and_the_stream_goes_on(weights: Path) -> None:
    images = {**BOMBS, "good": encoded(picture(1))}
    async with serving(weights) as server:
        client = make_client(server.port)
        answers = dict([answer async for answer in client.detect(numbered(images))])
    assert all(isinstance(answers[name], str) for name in BOMBS), answers
    assert not isinstance(answers["good"], str)


@pytest.mark.parametrize("trick", PATH_TRICKS, ids=lambda trick: repr(trick)[:20])
async def test_propose_takes_no_path_out_of_its_root(rooted, trick: str) -> None:
    client = make_client(rooted)
    for dataset, split in ((trick, "train"), ("small", trick)):
        with pytest.raises((InputError, NotFoundError)):
            [event async for event in client.propose(dataset, split)]
    assert (await client.info()).name == "tiny"


@pytest.fixture
async def rooted(weights: Path, dataset: Path) -> AsyncIterator[int]:
    async with serving(weights, data_root=dataset.parent) as server:
        yield server.port


async def test_links_in_a_circle_are_refused(weights: Path, tmp_path: Path) -> None:
    (tmp_path / "one").symlink_to(tmp_path / "two")
    (tmp_path / "two").symlink_to(tmp_path / "one")
    async with serving(weights, data_root=tmp_path) as server:
        client = make_client(server.port)
        with pytest.raises((InputError, NotFoundError)):
            [event async for event in client.propose("one", "train")]
        assert (await client.info()).name == "tiny"


async def test_a_message_over_the_limit_is_refused_and_the_service_goes_on(weights: Path) -> None:
    async def large() -> AsyncIterator[pb.DetectRequest]:
        yield pb.DetectRequest(frame_id="a", image=bytes(1 << 28))

    async with serving(weights) as server:
        config = ClientConfig(address=f"127.0.0.1:{server.port}", max_message_bytes=(1 << 31) - 1)
        async with open_channel(config) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                [answer async for answer in rpc.DetectorStub(channel).Detect(large())]
            assert caught.value.code() in (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.INTERNAL)
            assert (await rpc.DetectorStub(channel).GetInfo(pb.GetInfoRequest())).name == "tiny"


class Nothing:
    """A detector that is never asked."""


async def test_a_stream_without_frames_ends_and_says_how_to_go_on() -> None:
    batcher = MicroBatcher(Nothing(), BatcherConfig(), BatcherMetrics(Metrics().registry))
    stream = DetectStream(batcher, Flow("stream", "batch"), time_remaining_s=None, idle_s=0.05)

    async def silent() -> AsyncIterator[pb.DetectRequest]:
        await asyncio.Event().wait()
        yield pb.DetectRequest()

    try:
        with pytest.raises(ServiceUnavailableError, match=r"no frame came for 0\.05 s; open another stream"):
            [answer async for answer in stream.answers(silent())]
    finally:
        await stream.close()
        await batcher.stop()
