"""Small video files whose pictures carry their number as ten black or white bars."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

WIDTH, HEIGHT, BAR = 80, 48, 8
CLOCK = Fraction(1, 90_000)


def numbered_picture(number: int) -> NDArray[np.uint8]:
    picture_HW3 = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    for bit in range(10):
        picture_HW3[:, bit * BAR : (bit + 1) * BAR] = 255 * (number >> bit & 1)
    return picture_HW3


def number_of(picture_HW3: NDArray[np.uint8]) -> int:
    bars = picture_HW3[HEIGHT // 3 : -HEIGHT // 3].reshape(-1, 10, BAR, 3)[:, :, 2:-2].mean(axis=(0, 2, 3))
    return sum(1 << bit for bit in range(10) if bars[bit] > 128)


def write_video(
    path: Path,
    times_s: Sequence[Fraction],
    *,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    gop: int = 12,
    rate: Fraction | int | None = None,
    first: int = 0,
    container: str | None = None,
    options: dict[str, str] | None = None,
) -> Path:
    """Encode picture first, first + 1, ... to be shown at the given times.

    rate: of constant times, which then are what the encoder counts. container: where the name does not tell.
    """
    # Two pictures between references give presentation and decoding different orders, as in most real files.
    settings = {"g": str(gop)}
    if codec in ("libx264", "mpeg4", "mpeg1video", "mpeg2video"):
        settings["bf"] = "2"
    if codec.startswith("libx26"):
        settings["preset"] = "ultrafast"
    time_base = 1 / Fraction(rate) if rate else Fraction(1, 1000) if codec == "mjpeg" else CLOCK
    with av.open(str(path), "w", format=container) as file:
        stream = file.add_stream(codec, rate=rate or 30, options=settings | (options or {}))
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = WIDTH, HEIGHT, pix_fmt, 2_000_000
        stream.time_base = stream.codec_context.time_base = time_base
        for number, time_s in enumerate(times_s, start=first):
            frame = av.VideoFrame.from_ndarray(numbered_picture(number), format="rgb24")
            frame.pts, frame.time_base = round(time_s / time_base), time_base
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    return path


def constant(rate: Fraction | int, count: int, start_s: Fraction | int = 0) -> list[Fraction]:
    """Return the times of `count` pictures at a constant rate."""
    return [Fraction(start_s) + number / Fraction(rate) for number in range(count)]


def resampled_by_ffmpeg(path: Path) -> list[int]:
    """Return the numbers of the pictures that ffmpeg's fps=25 filter makes of a file."""
    numbers: list[int] = []
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        graph = av.filter.Graph()
        source, sink = graph.add_buffer(template=stream, time_base=stream.time_base), graph.add("buffersink")
        graph.link_nodes(source, graph.add("fps", "25"), sink).configure()
        for frame in [*container.decode(stream), None]:
            graph.vpush(frame)
            while True:
                try:
                    numbers.append(number_of(graph.vpull().to_ndarray(format="rgb24")))
                except (av.BlockingIOError, av.EOFError):
                    break
    return numbers
