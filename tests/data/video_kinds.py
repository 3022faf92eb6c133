"""Small video files of every kind: containers, codecs, times and orientations that are known to be difficult."""

import struct
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av

from tests.data.videos import HEIGHT, WIDTH, constant, numbered_picture, write_video

COUNT = 40


def _plain(codec: str = "libx264", *, container: str | None = None, **options: str) -> Callable[[Path], Path]:
    pix_fmt = {"mjpeg": "yuvj420p", "prores": "yuv422p10le"}.get(codec, "yuv420p")
    return lambda path: write_video(
        path, constant(25, COUNT), rate=25, codec=codec, pix_fmt=pix_fmt, container=container, options=options
    )


def _cut(path: Path) -> Path:
    """Cut off 17 pictures without encoding anew, as `ffmpeg -ss T -i IN -c copy` and phones do."""
    source = write_video(path.with_name(f"whole-{path.name}"), constant(25, COUNT + 17), rate=25, gop=15)
    with av.open(str(source)) as whole, av.open(str(path), "w", options={"avoid_negative_ts": "disabled"}) as part:
        stream = whole.streams.video[0]
        copied = part.add_stream_from_template(stream)
        assert stream.time_base is not None
        for packet in whole.demux(stream):
            if packet.size:
                packet.pts -= round(Fraction(17, 25) / stream.time_base)
                packet.dts -= round(Fraction(17, 25) / stream.time_base)
                packet.stream = copied
                part.mux(packet)
    return path


def _joined(codec: str, *, start_s: int = 0, **options: str) -> Callable[[Path], Path]:
    """Two recordings one after the other: 25 pictures, then others whose clock begins at start_s."""

    def write(path: Path) -> Path:
        one, two = path.with_name(f"one-{path.name}"), path.with_name(f"two-{path.name}")
        write_video(one, constant(25, 25), rate=25, codec=codec, options=options)
        write_video(two, constant(25, COUNT - 25, start_s=start_s), rate=25, codec=codec, first=25, options=options)
        path.write_bytes(one.read_bytes() + two.read_bytes())
        return path

    return write


def _with_pause(path: Path) -> Path:
    """One recording whose clock jumps by 20 s between references, so that times of both sides are mixed."""
    times = [Fraction(number, 25) + (20 if number >= 23 else 0) for number in range(COUNT)]
    return write_video(path, times, rate=25, gop=40)


def _packed(path: Path) -> Path:
    """MPEG-4 in AVI as DivX and XviD pack it: a picture and the one shown before it in one chunk, then an empty one."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25, options={"bf": "1", "g": "12", "b_strategy": "0"})
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = WIDTH, HEIGHT, "yuv420p", 2_000_000
        packets = []
        for number in range(COUNT):
            frame = av.VideoFrame.from_ndarray(numbered_picture(number), format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 25)
            packets += stream.encode(frame)
        packets += stream.encode(None)
        chunks: list[tuple[bytes, bool]] = []
        for packet, following in zip(packets, [*packets[1:], None], strict=True):
            if following is not None and following.pts < packet.pts:
                chunks.append((bytes(packet) + bytes(following), packet.is_keyframe))
            elif chunks and len(chunks[-1][0]) > len(bytes(packet)) and chunks[-1][0].endswith(bytes(packet)):
                chunks.append((b"\x00\x00\x01\xb6\x53\x00", False))
            else:
                chunks.append((bytes(packet), packet.is_keyframe))
        head, key = chunks[0]
        picture = head.index(b"\x00\x00\x01\xb6")
        chunks[0] = (head[:picture] + b"\x00\x00\x01\xb2DivX503b1393p" + head[picture:], key)
        for number, (data, key) in enumerate(chunks):
            packet = av.Packet(data)
            packet.stream, packet.is_keyframe, packet.time_base = stream, key, Fraction(1, 25)
            packet.pts = packet.dts = number
            container.mux(packet)
    return path


def with_matrix(path: Path, matrix: tuple[int, int, int, int]) -> Path:
    """Write a file whose display matrix is a, b, c, d: what is stored at (x, y) is shown at (ax + cy, bx + dy)."""
    content = bytearray(write_video(path, constant(25, 5), rate=25).read_bytes())
    a, b, c, d = (number << 16 for number in matrix)
    begin = content.index(b"tkhd") + 44
    content[begin : begin + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(content)
    return path


KINDS: dict[str, Callable[[Path], Path]] = {
    **{f"h264.{ending}": _plain() for ending in ("mp4", "mov", "mkv", "ts", "m2ts", "flv", "3gp", "3g2", "f4v", "mxf")},
    **{f"h264.{ending}": _plain(container=name) for ending, name in (("mpg", "mpeg"), ("vob", "vob"), ("264", "h264"))},
    "h264.avi": _plain(),
    "h264.asf": _plain(),
    "open-gop.ts": _plain(**{"x264-params": "open-gop=1:keyint=12:bframes=3:b-adapt=0"}),
    "renewed-bit-by-bit.ts": _plain(**{"x264-params": "intra-refresh=1:keyint=10:bframes=0"}),
    "many-references.mp4": _plain(**{"x264-params": "bframes=7:b-pyramid=normal:b-adapt=0:keyint=30"}),
    "hevc.mp4": _plain("libx265", **{"x265-params": "log-level=none:keyint=12:bframes=3"}),
    "hevc.ts": _plain("libx265", **{"x265-params": "log-level=none:keyint=12:bframes=3"}),
    "vp8.webm": _plain("libvpx", **{"auto-alt-ref": "1", "lag-in-frames": "10"}),
    "vp9.webm": _plain("libvpx-vp9", **{"auto-alt-ref": "1", "lag-in-frames": "10", "deadline": "realtime"}),
    **{f"mpeg4.{ending}": _plain("mpeg4") for ending in ("avi", "mp4", "mkv")},
    "mpeg4.m4v": _plain("mpeg4", container="m4v"),
    "packed.avi": _packed,
    "mpeg1.mpg": _plain("mpeg1video"),
    **{f"mpeg2.{ending}": _plain("mpeg2video") for ending in ("mpg", "vob", "ts", "avi", "mkv")},
    **{f"mjpeg.{ending}": _plain("mjpeg") for ending in ("avi", "mjpeg", "mov")},
    **{f"wmv2.{ending}": _plain("wmv2") for ending in ("wmv", "asf")},
    "flv1.flv": _plain("flv"),
    "prores.mov": _plain("prores"),
    "cut.mp4": _cut,
    "cut.mov": _cut,
    "restarted.ts": _joined("libx264"),
    "restarted.mpg": _joined("mpeg2video"),
    "restarted-without-delay.ts": _joined("libx264", bf="0"),
    "later-by-95-s.ts": _joined("libx264", start_s=95),
    "pause.ts": _with_pause,
}
"""Writers of files that show COUNT pictures at 25 a second, the first is SHOWN_FROM's or 0."""
SHOWN_FROM = {"cut.mp4": 17, "cut.mov": 17}
