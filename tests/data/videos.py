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
    first: int = 0,
) -> Path:
    """Encode picture first, first + 1, ... to be shown at the given times."""
    # Two pictures between references give presentation and decoding different orders, as in most real files.
    options = {"g": str(gop), "bf": "2", "preset": "ultrafast"} if codec == "libx264" else {"g": str(gop)}
    time_base = Fraction(1, 1000) if codec == "mjpeg" else CLOCK
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=30, options=options)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, pix_fmt
        stream.time_base = stream.codec_context.time_base = time_base
        for number, time_s in enumerate(times_s, start=first):
            frame = av.VideoFrame.from_ndarray(numbered_picture(number), format="rgb24")
            frame.pts, frame.time_base = round(time_s / time_base), time_base
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
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
