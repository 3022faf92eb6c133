"""`detect --track`: who is who in videos where that is known, through real services."""

import asyncio
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from cache.proposal_store import Proposals, open_proposals
from cache.store import Store
from cli.commands.detect import detect
from detector_svc import DETECTORS
from detector_svc.client.split_detection import detect_split
from detector_svc.client.tracking import PersonTracker, TrackedFrame
from detector_svc.detections import FrameDetections
from detector_svc.detector_protocol import DetectorConfig
from detector_svc.service.detector_service import DetectorService, DetectorServiceConfig
from stal_data.dataset import Dataset, Split
from stal_data.errors import InputError
from stal_data.keyframes import KeyFrame
from svc_common.config import ServerConfig
from svc_common.metrics import Metrics
from svc_common.server import ServiceServer
from tests.detector.replica import client_of
from tests.detector.walkers import SCORES, ColourDetector, write_walkers

FRAMES = 2 * (4 + 3 * 4)
"""Two videos of four key frames, with four frames in each second between them."""


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> Split:
    return Dataset.open(write_walkers(tmp_path_factory.mktemp("walkers") / "data")).split("test")


@pytest.fixture(autouse=True)
def colours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(DETECTORS, "colours", ColourDetector)
    monkeypatch.setattr(ColourDetector, "asked", 0)


@asynccontextmanager
async def services(count: int, tmp_path: Path) -> AsyncIterator[list[str]]:
    """The addresses of real services."""
    async with AsyncExitStack() as stack:
        addresses = []
        for _ in range(count):
            metrics = Metrics()
            config = DetectorServiceConfig(
                kind="colours", detector=DetectorConfig(weights=tmp_path / "walkers.toy", image_size=(90, 160))
            )
            service = DetectorService(config, metrics)
            server = ServiceServer(ServerConfig(port=0), [service], name="detector", metrics=metrics)
            addresses.append(f"127.0.0.1:{await server.start()}")
            stack.push_async_callback(server.stop, 0)
        yield addresses


async def tracked(split: Split, store: Store, *addresses: str, fps: float | None = 5, **options: object) -> Proposals:
    tracker = None if fps is None else PersonTracker(fps)
    _, found = await detect_split(split, store, client_of(*addresses), tracker=tracker, **options)
    read = open_proposals(store, "walkers", "test")
    assert read.digest == found.digest
    return read


def assert_same(one: Proposals, other: Proposals) -> None:
    assert one.tracks is not None
    assert other.tracks is not None
    assert (one.key_frames, one.tracks.frames) == (other.key_frames, other.tracks.frames)
    for name in ("boxes_N4", "scores_N", "offsets_K1"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    for name in ("ids_N", "offsets_M1", "boxes_P4", "scores_P", "ids_P"):
        np.testing.assert_array_equal(getattr(one.tracks, name), getattr(other.tracks, name))


async def test_everybody_keeps_one_id_while_they_cross_and_are_hidden(split: Split, tmp_path: Path) -> None:
    async with services(1, tmp_path) as (address,):
        plain = await tracked(split, Store.open(tmp_path / "plain", create=True), address, fps=None)
        found = await tracked(split, Store.open(tmp_path / "tracked", create=True), address)
    assert plain.tracks is None
    assert found.key_frames == plain.key_frames
    np.testing.assert_array_equal(found.boxes_N4, plain.boxes_N4)
    tracks = found.tracks
    assert tracks is not None
    assert len(tracks.frames) == FRAMES - 8
    assert [number for video, number in tracks.frames if video == "w0"][:6] == [32, 37, 42, 47, 57, 62]
    who: dict[tuple[str, float], set[int]] = {}
    for key in found.key_frames:
        ids = found.track_ids_of(key)
        assert ids is not None
        for score, person in zip(found.of(key)[1].tolist(), ids.tolist(), strict=True):
            who.setdefault((key.video, round(score, 1)), set()).add(person)
    for place, (video, _) in enumerate(tracks.frames):
        rows = slice(tracks.offsets_M1[place], tracks.offsets_M1[place + 1])
        for score, person in zip(tracks.scores_P[rows].tolist(), tracks.ids_P[rows].tolist(), strict=True):
            who.setdefault((video, round(score, 1)), set()).add(person)
    # Each person has one id in all frames, from the first on, and nobody has that of another.
    assert {len(ids) for ids in who.values()} == {1}
    for video in ("w0", "w1"):
        assert sorted(min(who[video, score]) for score in SCORES) == [1, 2, 3]
    assert set(np.diff(tracks.offsets_M1).tolist()) == {2, 3}  # blue is hidden in some frames


async def test_replicas_and_a_client_that_ended_early_change_nothing(split: Split, tmp_path: Path) -> None:
    stores = [Store.open(tmp_path / name, create=True) for name in ("one", "two", "again")]
    async with services(2, tmp_path) as addresses:
        one = await tracked(split, stores[0], addresses[0])
        assert_same(one, await tracked(split, stores[1], *addresses))

    def stop(done: int, total: int) -> None:
        assert total == FRAMES
        if done == 11:
            raise KeyboardInterrupt

    async with services(1, tmp_path) as (address,):
        with pytest.raises(KeyboardInterrupt):
            await tracked(split, stores[2], address, progress=stop)
    assert not list(stores[2].root.glob("**/*.h5"))
    ColourDetector.asked = 0
    async with services(2, tmp_path) as addresses:
        assert_same(one, await tracked(split, stores[2], *addresses))
    assert ColourDetector.asked == FRAMES - 11
    assert not list(stores[2].root.glob("**/.*.npz"))


@settings(max_examples=25, deadline=None)
@given(fps=st.floats(0.01, 25))
def test_key_frames_and_evenly_spaced_frames_are_planned(split: Split, fps: float) -> None:
    plan = PersonTracker(fps).plan(split)
    assert [frame.key for frame in plan if frame.key] == [item.key for item in split.key_frames]
    for video in ("w0", "w1"):
        numbers = [frame.number for frame in plan if frame.video == video]
        steps = np.diff(numbers)
        assert (numbers[0], numbers[-1]) == (27, 102)
        assert steps.min() >= 1
        assert steps.max() <= max(1, np.ceil(25 / fps))
        assert steps.max() - steps.min() <= 1
    assert len({frame.id for frame in plan}) == len(plan)


def seen(*boxes: tuple[float, float]) -> FrameDetections:
    """Boxes by left edge and score."""
    return FrameDetections(
        boxes_N4=np.array([(x, 0.2, x + 0.2, 0.8) for x, _ in boxes], np.float32).reshape(-1, 4),
        scores_N=np.array([score for _, score in boxes], np.float32),
    )


def test_boxes_in_no_track() -> None:
    """Somebody seen once, and a box of low confidence that nobody's track expects."""
    plan = [TrackedFrame(video="v", number=1 + 5 * place, key=KeyFrame("v", 200 * place)) for place in range(4)]
    frames = [seen((0, 0.9), (0.7, 0.2)), seen((0, 0.2), (0.7, 0.2)), seen((0, 0.9), (0.5, 0.9)), seen((0, 0.9))]
    tracks = PersonTracker(5).tracks(plan, {frame.id: found for frame, found in zip(plan, frames, strict=True)})
    assert tracks.ids_N.tolist() == [1, -1, 1, -1, 1, -1, 1]
    assert tracks.frames == ()


def ids_of(*frames: FrameDetections, step: int = 5) -> list[list[int]]:
    """The ids in key frames that follow each other after so many frames of the time line."""
    plan = [
        TrackedFrame(video="v", number=1 + step * place, key=KeyFrame("v", 40 * step * place))
        for place in range(len(frames))
    ]
    tracks = PersonTracker(25 / step).tracks(plan, {item.id: found for item, found in zip(plan, frames, strict=True)})
    return [ids.tolist() for ids in np.split(tracks.ids_N, np.cumsum([len(found) for found in frames])[:-1])]


def test_a_box_that_is_missed_after_the_first_belongs_to_the_track() -> None:
    sure, nobody = seen((0, 0.9)), seen()
    assert ids_of(sure, nobody, sure, sure) == [[1], [], [1], [1]]
    assert ids_of(sure, *[nobody] * 9, sure, sure) == [[1], *[[]] * 9, [1], [1]]
    assert ids_of(sure, *[nobody] * 10, sure, sure) == [[-1], *[[]] * 10, [1], [1]], "more than 2 s before"


def test_weak_boxes_before_a_track_belong_to_it() -> None:
    """As far as they lie in its place, one in each frame, each next to the following one."""
    sure = seen((0.3, 0.9))
    assert ids_of(seen((0.24, 0.2), (0.7, 0.2)), seen((0.27, 0.2)), sure, sure) == [[1, -1], [1], [1], [1]]
    assert ids_of(seen((0.25, 0.2), (0.31, 0.2)), sure, sure) == [[-1, 1], [1], [1]]
    two = seen((0.3, 0.9), (0.7, 0.9))
    assert ids_of(seen((0.69, 0.2), (0.32, 0.2)), two, two) == [[2, 1], [1, 2], [1, 2]]


def test_the_command_says_what_was_tracked(split: Split, tmp_path: Path) -> None:
    def run(*options: str) -> tuple[int, str]:
        words = [str(split.media.root.parent), "--split", "test", "--store", str(tmp_path / "store"), *options]
        result = CliRunner().invoke(detect, words)
        return result.exit_code, result.output

    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        running = services(1, tmp_path)
        (address,) = asyncio.run_coroutine_threadsafe(running.__aenter__(), loop).result()
        code, said = run("--detector", address, "--track", "--detect-fps", "2")
        asyncio.run_coroutine_threadsafe(running.__aexit__(None, None, None), loop).result()
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
    assert code == 0, said
    assert "22 boxes on 8 key frames" in said
    assert "Boxes in a track, by ByteTrack, trackers-" in said
    assert "2 frames a second: 22; also filed: 16 boxes on 6 frames between key frames" in said
    assert "detecting: 14/14 frames" in said
    for options, text in (
        (("--detect-fps", "3"), "--detect-fps has no effect without --track"),
        (("--track", "--server-side"), "leave out --server-side"),
        (("--track", "--detect-fps", "26"), "--detect-fps"),
    ):
        code, said = run("--detector", address, *options)
        assert (code, text in said) == (2, True), said


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "trackers", None)
    with pytest.raises(InputError, match=r"Tracking needs the package 'trackers'; .*'\.\[track\]'"):
        PersonTracker(5)
