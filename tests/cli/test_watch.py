"""`watch`: live recognition, with scripted sources and services of this process."""

import asyncio
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
from click.testing import CliRunner

from cli.main import root
from svc_common.errors import ServiceUnavailableError
from tests.cli.live_case import Timeless, ToyRecognizer, live_services, opening, read, shots
from tests.detector.replica import ReplicaService
from tests.services.echo import in_a_thread

SECOND = 1000


async def test_a_line_for_each_key_frame_says_when_who_and_what(capsys: pytest.CaptureFixture[str]) -> None:
    async with live_services() as services:
        await services.watch(opening(shots(7.5, 10.1)))
    records, err = read(capsys)
    assert [record["source_ms"] for record in records] == [7500, 8500, 9500]
    assert records[0] == {
        "source": "camera",
        "time": "2026-05-04T00:00:00.000+00:00",
        "source_ms": 7500,
        "people": [{"box": [0, 0, 0.5, 0.5], "confidence": 0.5, "actions": {"walk": 0.75}}],
        "lag_s": records[0]["lag_s"],
        "dropped": 0,
    }
    assert "3 key frames scored" in err
    assert "p95" in err


async def test_actions_reach_the_models_thresholds_unless_the_user_gives_one(
    capsys: pytest.CaptureFixture[str],
) -> None:
    shown = []
    async with live_services() as services:
        services.recognizer.thresholds = {1: 0.8, 2: 0.2}
        for settings in ({}, {"min_score": 0.5}):
            await services.watch(opening(shots(7.5, 8.1)), **settings)
            shown.append(read(capsys)[0][0]["people"][0]["actions"])
    assert shown == [{"greet": 0.25}, {"walk": 0.75}]


@pytest.mark.parametrize(("held", "until_s", "lost"), [("recognizer", 8, {3, 4, 5}), ("detector", 5.6, {3})])
async def test_key_frames_are_dropped_as_long_as_a_service_is_behind(
    held: str, until_s: float, lost: set[int], capsys: pytest.CaptureFixture[str]
) -> None:
    """The answer to 0 s is due at 1.28 s and late at 2.28 s. At most 2 s before the end are not taken yet."""
    async with live_services() as services:
        loop, recognizer = asyncio.get_running_loop(), services.recognizer
        answering = getattr(services, held).answering
        answering.clear()

        def feed():
            yield from shots(0, until_s)
            loop.call_soon_threadsafe(answering.set)
            yield from shots(until_s, 10)

        await services.watch(opening(feed()), max_lag_s=1)
    records, err = read(capsys)
    scored = [record["source_ms"] // SECOND for record in records]
    assert scored[:3] == [0, 1, 2]
    assert not lost & set(scored)
    assert recognizer.taken == [SECOND * second for second in scored]
    assert f"{10 - len(scored)} dropped in all" in err


async def test_a_cut_source_is_opened_again_and_another_stream_begins(capsys: pytest.CaptureFixture[str]) -> None:
    clock, refused = Timeless(), OSError(111, "connection refused")
    async with live_services() as services:
        source = opening(shots(3, 4.5), refused, refused, shots(0, 1.5))
        await services.watch(source, clock=clock.clock())
    records, err = read(capsys)
    assert [record["source_ms"] for record in records] == [3000, 4000, 0, 1000]
    assert clock.pauses == [0.5, 1, 2]
    assert services.recognizer.taken == [0, 1000, 0, 1000]
    assert err.count("the source is cut (connection refused)") == 2
    assert "source cut 3 times" in err


async def test_a_source_that_stays_away_ends_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    refused = OSError(111, "connection refused")
    async with live_services() as services:
        with pytest.raises(ServiceUnavailableError, match=r"no picture for 4 s \(connection refused\)"):
            await services.watch(opening(shots(0, 1.5), *[refused] * 9), give_up_after_s=3)
    records, err = read(capsys)
    assert [record["source_ms"] for record in records] == [0, 1000]
    assert "2 key frames scored" in err


@pytest.mark.parametrize(
    ("second", "reason"),
    [
        (shots(2, 3), "clock went back by 4.5"),
        (shots(600, 601), "clock leapt by 593.5"),
        (shots(6.52, 7.52, size=(24, 32)), "pictures are 24x32 instead of 32x24"),
    ],
    ids=["back", "leap", "size"],
)
async def test_another_stream_begins_where_clock_or_size_jump(
    second: object, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    times = []

    def feed():
        yield from shots(5, 6.5)
        for shot in second:
            times.append(shot.time_s)
            yield shot

    async with live_services() as services:
        await services.watch(opening(feed()))
    records, err = read(capsys)
    assert [record["source_ms"] for record in records] == [5000, 6000, round(1000 * times[0])]
    assert services.recognizer.streams == 2
    assert reason in err


async def test_old_pictures_after_a_stall_are_dropped_and_counted(capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing comes for 5 s, then at once what was taken from 1 to 4.5 s."""
    clock = Timeless()

    def passes(seconds: float) -> Callable[[], None]:
        def later() -> None:
            clock.now_s += seconds

        return later

    def feed():
        yield from shots(0, 1, before=passes(0.04))
        passes(5)()
        yield from shots(1, 4.5, before=passes(0.001))
        yield from shots(4.5, 5.3, before=passes(0.04))

    async with live_services() as services:
        await services.watch(opening(feed(), paced=False), clock=clock.clock())
    records, err = read(capsys)
    assert [record["source_ms"] for record in records] == [0, 4500]
    assert "sent old pictures: 4 key frames dropped" in err
    assert "4 dropped in all" in err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_signal_ends_the_command_with_its_answers_and_summary(
    number: int, capsys: pytest.CaptureFixture[str]
) -> None:
    released = threading.Event()

    def feed():
        yield from shots(0, 2.5)
        os.kill(os.getpid(), number)
        assert released.wait(60)  # as a read that waits for the network

    async with live_services() as services:
        try:
            await services.watch(opening(feed(), ends=False))
        finally:
            released.set()
    records, err = read(capsys)
    assert [record["source_ms"] for record in records] == [0, 1000, 2000]
    assert "3 key frames scored" in err


def write_video(path: Path, *, seconds: float) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=30)
        stream.width, stream.height = 64, 48
        for number in range(round(30 * seconds)):
            picture = np.full((48, 64, 3), number, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))


@pytest.mark.parametrize("damage", ["none", "end", "all"])
def test_a_file_is_watched_by_the_command(tmp_path: Path, damage: str) -> None:
    street = tmp_path / "street.avi"
    write_video(street, seconds=0.6)
    if damage != "none":
        content = street.read_bytes()
        kept = 0 if damage == "all" else content.rindex(b"00dc", 0, content.index(b"idx1")) + 8
        street.write_bytes(content[:kept] + b"x" * (len(content) - kept))
    services = {}

    async def made(kind: type) -> object:
        return kind()

    for name, kind in (("detector", ReplicaService), ("recognizer", ToyRecognizer)):
        services[name] = asyncio.run(made(kind))
    with in_a_thread(services["detector"]) as detector, in_a_thread(services["recognizer"]) as recognizer:
        addresses = ["--detector", f"127.0.0.1:{detector}", "--recognizer", f"127.0.0.1:{recognizer}"]
        result = CliRunner().invoke(root, ["watch", str(street), *addresses, "--every", "0.2"])
    if damage != "none":
        assert "street.avi does not decode as a video" in str(result.exception)
    else:
        assert result.exception is None
    if damage == "all":
        assert result.stdout == ""
        return
    assert [line.split('"source_ms": ')[1].split(",")[0] for line in result.stdout.splitlines()] == ["0", "200", "400"]
    assert "scored by first best" in result.stderr


@pytest.mark.parametrize(
    ("source", "words", "message"),
    [
        ("gone.mp4", (), "does not exist"),
        ("concat:a|b", (), "does not exist"),
        ("ftp://a/b.mp4", (), "give a file, /dev/videoN, or rtsp, rtsps, http, https://"),
        ("http://a/b", ("--webhook", "file:///etc/passwd"), "must be an address with http:// or https://"),
    ],
)
def test_addresses_that_cannot_be_used_are_refused(source: str, words: tuple[str, ...], message: str) -> None:
    options = ["--detector", "a:1", "--recognizer", "a:2", "--run", "first", *words]
    result = CliRunner().invoke(root, ["watch", source, *options])
    assert message in str(result.exception)
