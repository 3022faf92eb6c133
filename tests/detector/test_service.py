"""The detector service and its client over real connections."""

import asyncio
import inspect
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import grpc
import numpy as np
import pytest

from detector_svc.client import detector_client
from detector_svc.client.detector_client import DetectorClient
from detector_svc.detections import FrameDetections, from_message
from detector_svc.detector_protocol import DetectorConfig, PreparedImage
from detector_svc.service.detector_service import DetectorService
from detector_svc.yolo.yolo_detector import YoloDetector
from protos.generated import detector_pb2 as pb
from protos.generated import detector_pb2_grpc as rpc
from stal_data.errors import ConflictError, InputError, NotFoundError
from stal_data.keyframes import KeyFrame
from svc_common.client import RetryPolicy, open_channel
from svc_common.config import ClientConfig
from svc_common.errors import DeadlineError, ServiceError
from tests.detector.samples import encoded, make_client, make_server, numbered, picture, serving
from tests.services.echo import EchoService
from tests.services.echo import serving as echo_serving


async def collect(client: DetectorClient, images: dict[str, bytes]) -> list[tuple[str, FrameDetections | str]]:
    return [answer async for answer in client.detect(numbered(images))]


async def test_concurrent_streams_get_each_frame_once_with_its_own_boxes(weights: Path, detector: YoloDetector) -> None:
    async with serving(weights) as server:
        client = make_client(server.port)
        streams = [{f"{stream}-{n}": encoded(picture(20 * stream + n)) for n in range(20)} for stream in range(4)]
        answers = await asyncio.gather(*(collect(client, images) for images in streams))
    for stream, (images, found) in enumerate(zip(streams, answers, strict=True)):
        assert sorted(name for name, _ in found) == sorted(images)
        for name, together in found:
            seed = 20 * stream + int(name.split("-")[1])
            (alone,) = detector.detect([detector.prepare(picture(seed))])
            assert isinstance(together, FrameDetections)
            np.testing.assert_array_equal(together.boxes_N4, alone.boxes_N4)
            np.testing.assert_array_equal(together.scores_N, alone.scores_N)


async def test_a_bad_image_is_named_and_the_stream_goes_on(weights: Path) -> None:
    images = {"a": encoded(picture(1)), "b": b"junk", "c": encoded(picture(2))[:100], "d": encoded(picture(3))}
    async with serving(weights) as server:
        client = make_client(server.port)
        answers = dict(await collect(client, images))
    assert set(answers) == set(images)
    assert "'b'" in answers["b"]
    assert "'c'" in answers["c"]
    assert len(answers["d"]) > 0


async def test_a_frame_that_breaks_the_model_ends_no_stream(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    detect, together = YoloDetector.detect, []

    def fragile(self: YoloDetector, images: Sequence[PreparedImage]) -> list[FrameDetections]:
        if any(image.width == 161 for image in images):
            together.append(len(images))
            raise RuntimeError("index out of range")
        return detect(self, images)

    monkeypatch.setattr(YoloDetector, "detect", fragile)
    streams = [{f"{stream}-{n}": encoded(picture(n)) for n in range(6)} for stream in range(3)]
    streams[1]["bad"] = encoded(picture(1, 161))
    async with serving(weights, max_batch=19, max_delay_s=10) as server:
        client = make_client(server.port)
        answers = await asyncio.gather(*(collect(client, images) for images in streams))
    assert together == [19, 1, 1]  # the frames of all streams, then the bad one, twice
    for images, found in zip(streams, answers, strict=True):
        assert sorted(name for name, _ in found) == sorted(images)
        assert all(isinstance(answer, FrameDetections) for name, answer in found if name != "bad")
    assert "the model fails on this image" in dict(answers[1])["bad"]


async def test_a_service_has_the_image_size_of_the_training_by_default(weights: Path) -> None:
    trained_at = YoloDetector(DetectorConfig(weights=weights, device="cpu")).config
    async with serving(weights, image_size=None) as server:
        info = await make_client(server.port).info()
    assert (info.image_height, info.image_width) == (trained_at.height, trained_at.width)


async def test_info_names_what_runs(weights: Path, detector: YoloDetector) -> None:
    async with serving(weights) as server:
        client = make_client(server.port)
        info = await client.info()
    assert (info.image_height, info.image_width, info.confidence, info.name) == (90, 160, 0.5, "tiny")
    assert info.weights == detector.weights_digest
    assert info.weights.startswith("sha256:")
    assert info.library.startswith("ultralytics-8")
    assert info.classes == ["person"]


async def raw_detect(port: int, requests: AsyncIterator[pb.DetectRequest], timeout: float | None = None) -> list[str]:
    async with open_channel(ClientConfig(address=f"127.0.0.1:{port}")) as channel:
        return [answer.frame_id async for answer in rpc.DetectorStub(channel).Detect(requests, timeout=timeout)]


@pytest.mark.parametrize(("names", "text"), [(["a", "a"], "used by another frame"), ([""], "1 to 512")])
async def test_bad_frame_ids_end_the_stream(weights: Path, names: list[str], text: str) -> None:
    async def requests() -> AsyncIterator[pb.DetectRequest]:
        for name in names:
            yield pb.DetectRequest(frame_id=name, image=encoded(picture(1, 1600, 900)))

    async with serving(weights) as server:
        with pytest.raises(grpc.aio.AioRpcError, match=text):
            await raw_detect(server.port, requests())


async def test_a_passed_deadline_frees_the_queue(weights: Path) -> None:
    image = encoded(picture(1))

    async def never_closed() -> AsyncIterator[pb.DetectRequest]:
        for number in range(20):
            yield pb.DetectRequest(frame_id=str(number), image=image)
        await asyncio.Event().wait()

    async with serving(weights) as server:
        client = make_client(server.port)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await raw_detect(server.port, never_closed(), timeout=1.0)
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert len(await collect(client, {"next": encoded(picture(1))})) == 1


async def test_a_slow_model_slows_a_client_down_and_loses_nothing(weights: Path) -> None:
    images = {str(number): encoded(picture(number)) for number in range(80)}
    async with serving(weights, max_batch=1) as server:
        client = make_client(server.port, window=100)
        answers = await collect(client, images)
    assert sorted(name for name, _ in answers) == sorted(images)
    assert all(isinstance(found, FrameDetections) for _, found in answers)


@pytest.mark.parametrize("grace_s", [10, 0], ids=["drained", "cut off"])
async def test_a_restart_in_the_middle_loses_and_doubles_no_frame(weights: Path, grace_s: float) -> None:
    images = {str(number): encoded(picture(number)) for number in range(60)}
    first = make_server(weights)
    port = await first.start()
    second = make_server(weights, port=port)

    async def restart() -> None:
        await first.stop(grace_s)
        await second.start()

    seen: list[str] = []
    try:
        client = make_client(port, window=8)
        async for name, _ in client.detect(numbered(images)):
            seen.append(name)
            if len(seen) == 10:
                restarting = asyncio.create_task(restart())
        await restarting
    finally:
        await first.stop(0)
        await second.stop(0)
    assert sorted(seen) == sorted(images)


async def test_an_error_of_the_source_comes_after_the_answers(weights: Path) -> None:
    async def source() -> AsyncIterator[tuple[str, bytes]]:
        yield "a", encoded(picture(1))
        raise NotFoundError("frame 7 is missing")

    async with serving(weights) as server:
        client = make_client(server.port)
        answers = client.detect(source())
        assert (await anext(answers))[0] == "a"
        with pytest.raises(NotFoundError, match="frame 7"):
            await anext(answers)


async def test_repeated_ids_are_refused_by_the_client(weights: Path) -> None:
    async def source() -> AsyncIterator[tuple[str, bytes]]:
        for _ in range(2):
            yield "a", encoded(picture(1))

    async with serving(weights) as server:
        client = make_client(server.port)
        with pytest.raises(InputError, match="occurs twice"):
            [answer async for answer in client.detect(source())]


class SilentService(EchoService):
    """Takes frames and never answers."""

    async def GetInfo(self, request, context):
        return pb.GetInfoResponse(name="silent")

    async def Detect(self, request_iterator, context):
        async for _ in request_iterator:
            await asyncio.Event().wait()
            yield pb.DetectResponse()


async def test_an_answer_that_does_not_come_is_a_deadline() -> None:
    retry = RetryPolicy(retries=1, first_s=0.01)
    async with (
        echo_serving(SilentService()) as (server, _),
    ):
        client = make_client(server.port, timeout_s=1.0, retry=retry)
        with pytest.raises(DeadlineError, match=r"no answer for 1 s"):
            await collect(client, {"a": encoded(picture(1))})


async def test_propose_runs_a_split_in_order(weights: Path, dataset: Path) -> None:
    async with serving(weights, data_root=dataset.parent) as server:
        client = make_client(server.port)
        head, *items = [event async for event in client.propose("small", "train")]
        images = {
            str(key): (dataset / "frames" / key.video / f"{key.video}_{frame_of(key):06d}.png").read_bytes()
            for key, _ in items
        }
        sent = dict(await collect(client, images))
    assert head == pb.ProposeHeader(dataset="small", split="train", key_frames=9)
    assert [key for key, _ in items] == [KeyFrame(f"v{v}", 1000 * second) for v in range(3) for second in (1, 2, 3)]
    for key, found in items:
        np.testing.assert_array_equal(found.boxes_N4, sent[str(key)].boxes_N4)


async def test_propose_answers_for_key_frames_within_a_second(weights: Path, dataset: Path, tmp_path: Path) -> None:
    (tmp_path / "fifths").mkdir()
    (tmp_path / "fifths" / "labels.pbtxt").symlink_to(dataset / "labels.pbtxt")
    (tmp_path / "fifths" / "train.csv").write_text("v0,1.2\nv0,1.0\nv0,1.04\n")
    (tmp_path / "fifths" / "dataset.yaml").write_text(
        f"name: fifths\nformat: ava\nlabel_map: labels.pbtxt\nmedia: {{kind: frames, root: {dataset / 'frames'}}}\n"
        "splits: {train: {annotations: train.csv}}\n"
    )
    async with serving(weights, data_root=tmp_path) as server:
        _, *items = [event async for event in make_client(server.port).propose("fifths", "train")]
    assert [key for key, _ in items] == [KeyFrame("v0", time_ms) for time_ms in (1000, 1040, 1200)]


def frame_of(key: KeyFrame) -> int:
    return key.time_ms // 40 + 4  # the middle of the 8 annotated frames


@pytest.mark.parametrize(
    ("path", "split", "kind", "text"),
    [
        ("../other", "train", InputError, "outside the service's data root"),
        ("/etc", "train", InputError, "outside the service's data root"),
        ("small/../../x", "train", InputError, "outside the service's data root"),
        ("nope", "train", NotFoundError, "'nope' does not exist"),
        ("small", "tran", NotFoundError, "train"),
    ],
)
async def test_propose_stays_below_its_root(
    weights: Path, dataset: Path, path: str, split: str, kind: type[Exception], text: str
) -> None:
    async with serving(weights, data_root=dataset.parent) as server:
        client = make_client(server.port)
        with pytest.raises(kind, match=text):
            [event async for event in client.propose(path, split)]


async def test_a_link_out_of_the_root_is_refused(weights: Path, dataset: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(dataset)
    async with serving(weights, data_root=tmp_path) as server:
        client = make_client(server.port)
        with pytest.raises(InputError, match="outside"):
            [event async for event in client.propose("link", "train")]


async def test_without_a_data_root_propose_is_off(weights: Path) -> None:
    async with serving(weights) as server:
        client = make_client(server.port)
        with pytest.raises(ConflictError, match="--data-root"):
            [event async for event in client.propose("small", "train")]


async def test_missing_weights_stop_the_start(tmp_path: Path) -> None:
    server = make_server(tmp_path / "gone.pt")
    with pytest.raises(NotFoundError, match=r"gone\.pt"):
        await server.start()


def test_every_rpc_has_a_servicer_method_and_a_client_wrapper() -> None:
    methods = [method.name for method in pb.DESCRIPTOR.services_by_name["Detector"].methods]
    assert methods
    for name in methods:
        assert getattr(DetectorService, name) is not getattr(rpc.DetectorServicer, name), f"{name} is not served"
        assert f".{name}(" in inspect.getsource(detector_client), f"the client never calls {name}"
    assert pb.DESCRIPTOR.services_by_name["Detector"].full_name == DetectorService.full_name


@pytest.mark.parametrize(
    ("boxes", "scores"),
    [
        ([0.1, 0.2, 0.3], [0.5]),
        ([0.5, 0.2, 0.3, 0.4], [0.5]),
        ([0.1, 0.2, 1.5, 0.4], [0.5]),
        ([0.1, 0.2, 0.3, 0.4], [1.5]),
    ],
)
def test_broken_answers_are_refused(boxes: list[float], scores: list[float]) -> None:
    with pytest.raises(ServiceError):
        from_message(pb.Detections(boxes=boxes, scores=scores))
