"""Live recognition in a test: pictures that a test scripts, services that answer at once or when told to."""

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from fractions import Fraction
from itertools import count

import numpy as np
import pytest

from cli.workflow.streaming.live import LiveSettings
from cli.workflow.streaming.outputs import JsonLines, Output
from cli.workflow.streaming.reader import LiveClock
from cli.workflow.streaming.recognize_live import recognize_live
from cli.workflow.streaming.source import Feed, Opener, Shot
from protos.generated import recognizer_pb2 as pb
from protos.generated import recognizer_pb2_grpc as rpc
from svc_common.config import ClientConfig
from tests.detector.replica import ReplicaService
from tests.services.echo import EchoService, serving

LABELS = ("walk", "greet")
SIZE = (32, 24)


class ToyRecognizer(EchoService, rpc.RecognizerServicer):
    """Scores everybody walk 0.75, greet 0.25, as long as `answering` is set."""

    full_name = "stal.recognizer.v2.Recognizer"

    def __init__(self) -> None:
        super().__init__()
        self.answering = asyncio.Event()
        self.answering.set()
        self.taken: list[int] = []
        self.streams = 0
        self.thresholds: dict[int, float] = {}

    def register(self, server) -> None:
        rpc.add_RecognizerServicer_to_server(self, server)

    async def ListModels(self, request, context):
        return pb.ListModelsResponse(models=[pb.Model(run_id="first", checkpoint=name) for name in ("best", "latest")])

    async def RecognizeVideo(self, request_iterator, context):
        self.streams += 1
        labels = [pb.Label(id=number, name=name) for number, name in enumerate(LABELS, start=1)]
        model = pb.Model(run_id="first", checkpoint="best", digest="sha256:1", labels=labels)
        sizes = [pb.FrameSize(height=4, width=4)]
        header = pb.VideoHeader(
            model=model, clip_span=64, clip_stride=2, sizes=sizes, kept_frames=192, thresholds=self.thresholds
        )
        yield pb.RecognizeVideoResponse(header=header)
        async for request in request_iterator:
            if request.WhichOneof("request") == "key_frame":
                people = request.key_frame
                self.taken.append(people.time_ms)
                await self.answering.wait()
                boxes = [(box.x1, box.y1, box.x2, box.y2) for box in people.boxes]
                yield pb.RecognizeVideoResponse(
                    key_frame=pb.ScoredKeyFrame(
                        video="camera",
                        time_ms=people.time_ms,
                        boxes=np.array(boxes, "<f4").tobytes(),
                        scores=np.array([(0.75, 0.25)] * len(boxes), "<f4").tobytes(),
                    )
                )


def shots(
    begin_s: float, end_s: float, *, fps: int = 25, size: tuple[int, int] = SIZE, before: Callable[[], object] = int
) -> Iterator[Shot]:
    """Grey pictures, the brighter the later. before: called before each of them, in the reader's thread."""
    for number in count():
        time_s = Fraction(str(begin_s)) + Fraction(number, fps)
        if time_s >= Fraction(str(end_s)):
            return
        before()
        yield Shot(time_s, size, lambda number=number: np.full((size[1], size[0], 3), number % 256, np.uint8))


def opening(*feeds: Iterable[Shot] | Exception, ends: bool = True, paced: bool = True) -> Opener:
    """One feed, or why there is none, at each call; the last one ends. paced: such a feed waits for room."""
    waiting = list(feeds)

    def opened() -> Feed:
        feed = waiting.pop(0)
        if isinstance(feed, Exception):
            raise feed
        return Feed(shots=iter(feed), paced=paced, ends=lambda _: ends and not waiting)

    return opened


class Timeless:
    """A clock that stands still unless somebody waits, which takes no time."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        self.pauses: list[float] = []

    def clock(self) -> LiveClock:
        return LiveClock(now=lambda: self.now_s, utc=lambda: datetime(2026, 5, 4, tzinfo=UTC), wait=self._wait)

    def _wait(self, stop: threading.Event, seconds: float) -> None:
        self.now_s += seconds
        if seconds > 0.1:  # else the pace of a file
            self.pauses.append(seconds)


class Services:
    """A detector that finds one box in each picture, and a recognizer."""

    def __init__(self, detector: ReplicaService, recognizer: ToyRecognizer, ports: tuple[int, int]) -> None:
        self.detector, self.recognizer = detector, recognizer
        self.clients = [(ClientConfig(address=f"127.0.0.1:{port}"),) for port in ports]

    async def watch(self, source: Opener, *outputs: Output, clock: LiveClock | None = None, **settings: object) -> None:
        live = LiveSettings(**{"name": "camera", "run_id": "first"} | settings)
        clock = clock or Timeless().clock()
        await recognize_live(live, source, *self.clients, [JsonLines(), *outputs], clock=clock)


@asynccontextmanager
async def live_services() -> AsyncIterator[Services]:
    detector, recognizer = ReplicaService(), ToyRecognizer()
    async with serving(detector) as (first, _), serving(recognizer) as (second, _):
        yield Services(detector, recognizer, (first.port, second.port))


def read(capsys: pytest.CaptureFixture[str]) -> tuple[list[dict], str]:
    """The records on standard output, and what stands on stderr."""
    out, err = capsys.readouterr()
    return [json.loads(line) for line in out.splitlines()], err
