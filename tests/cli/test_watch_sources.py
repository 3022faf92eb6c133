"""`watch` and real sources: the 25 fps time line, a buffer that is full, HTTP and RTSP servers that cut the link."""

import asyncio
import io
import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from fractions import Fraction
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from cli.workflow.streaming.live_frames import MAX_FRAMES, FrameBuffer, LiveTimeline
from cli.workflow.streaming.reader import LiveClock, LiveReader
from cli.workflow.streaming.source import Shot, opener_of, source_name
from stal_data.media.timeline import slots_of_times
from tests.cli.live_case import Timeless, live_services, opening, read, shots
from tests.services.recognizer_process import unused_port

NOW = datetime(2026, 5, 4, tzinfo=UTC)
SYSTEM_PYTHON = "/usr/bin/python3"
RTSP = Path(__file__).with_name("rtsp_server.py")


@given(steps=st.lists(st.integers(0, 60), max_size=40), every=st.integers(1, 40))
def test_frames_are_those_of_the_time_line_of_files(steps: list[int], every: int) -> None:
    """Each slot shows the last picture that went to it or before it; times in sixtieths of a second."""
    ticks = np.cumsum([0, *steps])
    timeline, numbers, keys = LiveTimeline(40 * every), list[int](), list[int]()
    pictures = [np.full((1, 1, 3), number, np.uint8) for number in range(len(ticks))]
    frames = []
    for tick, picture in zip(ticks.tolist(), pictures, strict=True):
        shot = Shot(10 + Fraction(tick, 60), (1, 1), lambda picture=picture: picture)
        assert timeline.jump(shot) is None
        frames += timeline.add(shot, 0, NOW)
    frames += timeline.restart()
    slots = slots_of_times(ticks, Fraction(1, 60))
    numbers = np.searchsorted(slots, np.arange(slots[-1] + 1), side="right") - 1
    assert [int(frame.picture[0, 0, 0]) for frame in frames] == numbers.tolist()
    assert [frame.number for frame in frames] == list(range(1, len(frames) + 1))
    keys = [frame for frame in frames if frame.key_ms is not None]
    assert [(frame.number - 1) % every for frame in keys] == [0] * len(keys)
    assert all(frame.key_ms == frame.source_ms - 10_000 == 40 * (frame.number - 1) for frame in keys)
    assert len(keys) == (len(frames) + every - 1) // every


async def test_frames_of_a_camera_that_are_not_taken_are_dropped_and_counted() -> None:
    """Of 160 frames 50 find room. The next one and the one behind it are lost with them: 0, 1 and 2 s. So are the next
    52, which begin another stream: 0, 1 and 2 s again. 56 are left, of which the last 4 find an empty buffer."""
    notes, buffer = list[str](), FrameBuffer()
    reader = LiveReader(
        opening(shots(0, 6.4), paced=False),
        buffer,
        every_ms=1000,
        give_up_after_s=0,
        note=notes.append,
        clock=Timeless().clock(),
    )
    reader.start()
    await asyncio.to_thread(reader._thread.join)
    left = []
    while (frame := await buffer.first()) is not None:
        assert buffer.take(frame)
        left.append((frame.stream, frame.number))
    assert left == [(4, number) for number in range(1, 5)]
    assert reader.dropped == 9
    assert sum("3 key frames dropped" in note for note in notes) == 3
    assert MAX_FRAMES == 50


def video_bytes(size: tuple[int, int], seconds: float, container_format: str = "mpegts") -> bytes:
    file = io.BytesIO()
    with av.open(file, "w", format=container_format) as container:
        stream = container.add_stream("mpeg2video", rate=25)
        stream.width, stream.height = size
        stream.gop_size = 5
        for number in range(round(25 * seconds)):
            picture = np.random.default_rng(number).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    return file.getvalue()


@contextmanager
def http_server(*answers: bytes | None) -> Iterator[str]:
    """Sends an answer to each request, without a length, and hangs up; None is a status 503, as is what comes later."""
    waiting = list(answers)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer = waiting.pop(0) if waiting else None
            self.send_response(503 if answer is None else 200)
            self.end_headers()
            self.wfile.write(answer or b"")

        def log_message(self, format: str, *args: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield f"http://user:secret@127.0.0.1:{server.server_address[1]}/live?token=secret"
        finally:
            server.shutdown()
            thread.join()


async def test_a_server_that_hangs_up_is_asked_again(capsys: pytest.CaptureFixture[str]) -> None:
    first, second = video_bytes((64, 48), 1.2), video_bytes((48, 64), 0.4)
    with http_server(first, None, second) as address:
        async with live_services() as services:
            with pytest.raises(Exception, match="The source sent no picture"):
                await services.watch(opener_of(address), name=source_name(address), give_up_after_s=4)
    records, err = read(capsys)
    assert len(records) == 3
    assert services.recognizer.streams == 2
    assert records[0]["source"].endswith("/live")
    assert "secret" not in err + str(records)
    assert "Server returned 5XX" in err


def has_rtsp_server() -> bool:
    """Whether the system's Python finds what the server needs."""
    needs = "import gi; gi.require_version('GstRtspServer', '1.0'); from gi.repository import GstRtspServer"
    return (
        Path(SYSTEM_PYTHON).exists()
        and not subprocess.run([SYSTEM_PYTHON, "-c", needs], capture_output=True).returncode
    )


@contextmanager
def rtsp_server(port: int, width: int, height: int) -> Iterator[None]:
    words = [SYSTEM_PYTHON, str(RTSP), str(port), str(width), str(height)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield
        finally:
            process.kill()


@pytest.mark.slow
@pytest.mark.skipif(not has_rtsp_server(), reason="needs Debian's gir1.2-gst-rtsp-server-1.0 and python3-gi")
async def test_an_rtsp_server_that_is_killed_and_comes_back_with_other_pictures(
    capsys: pytest.CaptureFixture[str],
) -> None:
    port, seen = unused_port(), list[tuple[int, int]]()
    enough = asyncio.Event()

    class Sizes:
        """The sizes of the pictures that the page gets."""

        pictures = True

        def send(self, record: dict, picture: bytes | None) -> None:
            assert picture is not None
            seen.append(Image.open(io.BytesIO(picture)).size)
            enough.set()

        def close(self) -> None: ...

        def summary(self) -> str:
            return ""

    async with live_services() as services:
        source = opener_of(f"rtsp://127.0.0.1:{port}/live")
        watching = asyncio.create_task(services.watch(source, Sizes(), clock=LiveClock(), give_up_after_s=60))
        for width, height in ((320, 240), (480, 272)):
            with rtsp_server(port, width, height):
                async with asyncio.timeout(120):
                    while seen.count((width, height)) < 3:
                        enough.clear()
                        await enough.wait()
        os.kill(os.getpid(), signal.SIGTERM)
        await watching
    records, err = read(capsys)
    assert len(records) == len(seen)
    assert services.recognizer.streams >= 2
    assert "the source is cut" in err
