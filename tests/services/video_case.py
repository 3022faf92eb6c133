"""A small split over real frames, heads trained on its features, and services that hold its backbones."""

import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cache.backbones.load import LoadedBackbone, load_backbone
from cache.precompute import PrecomputeOptions, precompute
from cache.store import Store
from protos.generated import recognizer_pb2 as pb
from recognizer_svc.client import RecognizerClient
from recognizer_svc.local import LocalRecognizer
from recognizer_svc.people import People
from recognizer_svc.service.server import RecognizerConfig, RecognizerService
from recognizer_svc.training.distributed import Ranks
from recognizer_svc.training.run import train_run
from recognizer_svc.video.client import PeopleAt, VideoItem, VideoPicture, VideoRequest
from recognizer_svc.video.timeline import VideoTime
from stal_data.dataset import Split
from stal_data.keyframes import AnnotatedKeyFrame, KeyFrame, ScoredKeyFrame
from stal_data.labels import Label, LabelMap
from stal_data.media.frames import FrameFolders
from svc_common.config import ClientConfig, ServerConfig
from svc_common.metrics import Metrics
from svc_common.server import ServiceServer
from tests.recognizer.conftest import make_run

FRAMES = 171
"""Of each video: an odd number, so that the last clip is repeated at the other parity of frames."""
TIMES_MS = (0, 440, 1000, 2000, 3000, 4000, 4520, 5000, 6000, 6800)
LABELS = LabelMap([Label(1, "walk", "PERSON_MOVEMENT"), Label(2, "greet", "PERSON_INTERACTION")])
RELATION = "head={kind: relation, channels: 8}"
RUNS = {
    "plain": (),
    "pooled": (RELATION, "data.statistics=[mean, slope/2x2]"),
    "seeing": (RELATION, "data.neighbours=1"),
    "banked": (RELATION, "data.bank_s=2"),
}
RECIPE = """
name: video
data: {dataset: street, train_split: train}
validation: {split: null}
head: {kind: linear}
loss: {kind: sigmoid}
optimizer: {kind: adamw, learning_rate: 0.05}
schedule: {kind: cosine, warmup_epochs: 0.5}
training: {epochs: 2, batch_clips: 4}
"""
KEPT = {"slow": ("mean", "slope/2x2/int8"), "fast": ("mean", "slope/2x2/int8")}
LOADERS = (
    partial(load_backbone, "slowfast", weights="random:0", preset="tiny", statistics=KEPT),
    partial(load_backbone, "vit", weights="random:0", preset="tiny"),
)
Loaders = Sequence[Callable[[], LoadedBackbone]]


@dataclass(frozen=True)
class VideoCase:
    store: Store
    split: Split

    @classmethod
    def make(cls, root: Path, *changes: str) -> "VideoCase":
        """changes: of the recipes."""
        write_frames(root / "frames")
        split = make_split(FrameFolders(root / "frames"))
        store = Store.open(root / "store", create=True)
        precompute(split, store, PrecomputeOptions(backbones=[load() for load in LOADERS]))
        for run_id, overrides in RUNS.items():
            train_run(make_run(store.root, run_id, [*overrides, *changes], RECIPE), Ranks())
        return cls(store, split)

    async def expected(self, run_id: str) -> dict[KeyFrame, NDArray[np.float32]]:
        """Scores on the cached features, as `predict` gives them."""
        request = pb.PredictRequest(run_id=run_id, dataset="street", split="train", ground_truth=pb.GroundTruthBoxes())
        async with LocalRecognizer(self.store) as local:
            items = [item async for item in local.predict(request)]
        return {item.key: item.scores_NC for item in items if isinstance(item, ScoredKeyFrame)}

    def request(self, run_id: str, video: str = "v0", *, known: bool = True, sending: str = "resized") -> VideoRequest:
        time = VideoTime(video=video, num_frames=FRAMES if known else None)
        return VideoRequest(run_id=run_id, time=time, sending=sending)

    def picture(self, video: str, number: int) -> NDArray[np.uint8]:
        return self.split.media.read(video, [number])[0]

    def people(self, video: str) -> list[PeopleAt]:
        return [
            PeopleAt(time_ms=item.key.time_ms, people=People.of(item.boxes_N4, item.persons))
            for item in self.split.key_frames
            if item.key.video == video
        ]

    async def items(self, video: str = "v0", *, late: int = 0) -> AsyncIterator[VideoItem]:
        """Every frame, and each key frame `late` frames after its own."""
        waiting = self.people(video)
        for number in range(1, FRAMES + 1):
            yield VideoPicture(number=number, picture=self.picture(video, number))
            while waiting and waiting[0].time_ms <= 40 * (number - 1 - late):
                yield waiting.pop(0)
        for item in waiting:
            yield item

    async def scores(
        self, client: RecognizerClient, request: VideoRequest, items: AsyncIterator[VideoItem] | None = None
    ) -> dict[KeyFrame, NDArray[np.float32]]:
        """Answers of the service, after a check of their order."""
        answers = client.recognize_video(request, items or self.items(request.time.video))
        header, *found = [answer async for answer in answers]
        assert isinstance(header, pb.VideoHeader)
        assert [item.key for item in found] == sorted(item.key for item in found)
        return {item.key: item.scores_NC for item in found}


def write_frames(root: Path) -> None:
    for number in range(2):
        noise = np.random.default_rng(number).integers(0, 200, (9, 16, 3), dtype=np.uint8)
        noise = np.asarray(Image.fromarray(noise).resize((128, 72), Image.Resampling.BICUBIC))
        (root / f"v{number}").mkdir(parents=True)
        for frame in range(1, FRAMES + 1):
            picture = np.roll(noise, frame * (number + 1), axis=1)
            picture[frame % 60 : frame % 60 + 12, 20:40] = 255
            Image.fromarray(picture).save(root / f"v{number}" / f"v{number}_{frame:06d}.png", compress_level=1)


def make_split(media: FrameFolders) -> Split:
    """One or two people a key frame, none in every fifth."""
    key_frames = []
    for video in ("v0", "v1"):
        for place, time_ms in enumerate(TIMES_MS):
            count = (1, 2, 1, 2, 0)[place % 5]
            boxes = [(0.1 + 0.02 * place, 0.2, 0.4 + 0.02 * place, 0.9), (0.6, 0.1, 0.8, 0.8)][:count]
            key_frames.append(
                AnnotatedKeyFrame(
                    key=KeyFrame(video, time_ms),
                    window=None,
                    boxes_N4=np.array(boxes, np.float32).reshape(-1, 4),
                    labels=(frozenset({1 + place % 2}), frozenset({1}))[:count],
                    persons=(7, 8)[:count],
                )
            )
    return Split(
        dataset="street",
        name="train",
        key_frames=tuple(key_frames),
        exclusions=frozenset(),
        annotated=True,
        label_map=LABELS,
        media=media,
    )


@dataclass(frozen=True)
class Serving:
    client: RecognizerClient
    service: RecognizerService
    server: ServiceServer
    metrics: Metrics

    def metric(self, name: str) -> float:
        value = self.metrics.registry.get_sample_value(name)
        assert value is not None
        return value

    @contextmanager
    def thread_held(self) -> Iterator[None]:
        """The scoring thread computes nothing."""
        release = threading.Event()
        self.service._scoring._thread.submit(release.wait)
        try:
            yield
        finally:
            release.set()


@asynccontextmanager
async def serving(
    case: VideoCase, *, backbones: Loaders = LOADERS, port: int = 0, **config: object
) -> AsyncIterator["Serving"]:
    """A real server, and a client of it."""
    settings = RecognizerConfig(store=case.store, device="cpu", backbones=tuple(backbones), **config)
    metrics = Metrics()
    service = RecognizerService(settings, metrics)
    server = ServiceServer(ServerConfig(port=port), [service], name="recognizer")
    await server.start()
    try:
        async with RecognizerClient(ClientConfig(address=f"127.0.0.1:{server.port}")) as client:
            yield Serving(client, service, server, metrics)
    finally:
        await server.stop(0)


def worst(found: dict[KeyFrame, NDArray[np.float32]], wanted: dict[KeyFrame, NDArray[np.float32]]) -> float:
    """The greatest difference of two scores; key frames without people may lack in what is wanted."""
    assert {key for key, scores in found.items() if len(scores)} == set(wanted)
    return max(float(np.abs(found[key] - scores).max()) for key, scores in wanted.items())


@asynccontextmanager
async def scored_by_services_that_end(
    case: VideoCase, request: VideoRequest, *, grace_s: float, late: int = 0, **options: int
) -> AsyncIterator[tuple[dict[KeyFrame, NDArray[np.float32]], RecognizerClient]]:
    """Scores of a stream whose services end after the first, the fourth and the seventh answer, and its client, which
    has reached the last one. grace_s, options: of the services.
    """
    found: dict[KeyFrame, NDArray[np.float32]] = {}
    async with AsyncExitStack() as services:
        it = await services.enter_async_context(serving(case, **options))
        client = it.client
        async for answer in client.recognize_video(request, case.items(late=late)):
            if not isinstance(answer, ScoredKeyFrame):
                continue
            assert answer.key not in found
            found[answer.key] = answer.scores_NC
            if len(found) in (1, 4, 7):
                port = it.server.port
                await it.server.stop(grace_s)
                it = await services.enter_async_context(serving(case, port=port, **options))
        yield found, client
