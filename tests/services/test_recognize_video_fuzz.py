"""RecognizeVideo with messages that nobody should send, at a service that holds backbones: it goes on."""

import grpc
from hypothesis import given, settings
from hypothesis import strategies as st

from protos.generated import recognizer_pb2 as pb
from recognizer_svc.service.server import RecognizerConfig, RecognizerService
from svc_common.config import ServerConfig
from svc_common.metrics import Metrics
from svc_common.server import ServiceServer
from tests.services.hostile import IMAGES, Caller, is_orderly, messages, raw_or_made
from tests.services.test_fuzz import in_thread
from tests.services.test_recognize_video_refusals import frames, people, start
from tests.services.video_case import LOADERS, VideoCase

METHOD = pb.DESCRIPTOR.services_by_name["Recognizer"].methods_by_name["RecognizeVideo"]
GOOD = [request.SerializeToString() for request in (start(), *frames(range(1, 60)), people(440), people(1000))]


def frame(number: int, image: bytes) -> bytes:
    return pb.RecognizeVideoRequest(frame=pb.VideoFrame(number=number, image=image)).SerializeToString()


def key_frame(time_ms: int, boxes: list[tuple[float, ...]]) -> bytes:
    made = [pb.Box(x1=x1, y1=y1, x2=x2, y2=y2) for x1, y1, x2, y2 in boxes]
    return people(time_ms, *made).SerializeToString()


CORNERS = st.sampled_from([0.0, 0.2, 0.5, 1.0])
LIKELY = st.one_of(
    st.builds(frame, st.integers(55, 70), IMAGES),
    st.builds(key_frame, st.integers(0, 2000), st.lists(st.tuples(*[CORNERS] * 4), max_size=3)),
    st.builds(lambda number: pb.RecognizeVideoRequest(num_frames=number).SerializeToString(), st.integers(0, 80)),
)
TIMES_MS = [440, 1000]
KEPT = st.builds(
    pb.KeptFeatures,
    dataset=st.sampled_from(["a", "b", "street"]),
    split=st.sampled_from(["all", "train"]),
    decoder=st.just("any"),
    times_ms=st.one_of(st.just(TIMES_MS), st.lists(st.integers(-100, 2000), max_size=4)),
    sources=st.sampled_from([[0, 0], [0, 1], []]),
    proposals=st.sampled_from(["", "people"]),
)
STARTS = st.one_of(KEPT, messages(pb.KeptFeatures.DESCRIPTOR)).map(lambda keep: start(keep=keep).SerializeToString())


def test_streams_end_in_order_whatever_is_sent(video_case: VideoCase) -> None:
    config = RecognizerConfig(store=video_case.store, device="cpu", backbones=LOADERS, max_kept=3)

    def server() -> ServiceServer:
        return ServiceServer(ServerConfig(), [RecognizerService(config, Metrics())], name="recognizer")

    with in_thread(server) as running, grpc.insecure_channel(f"127.0.0.1:{running.port}") as channel:
        caller = Caller(channel)

        @settings(max_examples=60, deadline=None)
        @given(
            st.one_of(st.just(GOOD[0]), STARTS),
            st.integers(1, len(GOOD)),
            st.lists(st.one_of(LIKELY, LIKELY, raw_or_made(METHOD)), max_size=5),
        )
        def call(first: bytes, count: int, rest: list[bytes]) -> None:
            code, text = caller.call(METHOD, [first, *GOOD[1:count], *rest])
            assert is_orderly(code), (code, text)

        call()
        assert caller.call(METHOD, GOOD) == (grpc.StatusCode.OK, "")
