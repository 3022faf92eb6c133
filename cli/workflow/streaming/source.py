"""Where live pictures come from: files, cameras and addresses, as PyAV opens them."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias
from urllib.parse import urlsplit

import av
import numpy as np
from av.container import InputContainer
from av.sidedata.sidedata import Type as SideData
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray

from stal_data.errors import InputError
from stal_data.media.turning import Turn, turn_of_matrix
from stal_data.media.video_packets import undecodable

_SCHEMES = ("rtsp", "rtsps", "http", "https")
_CAMERA = re.compile(r"/dev/video\d+")
SILENCE_S = 5.0
"""A source that sends nothing for so long is taken for cut; PyAV takes up to twice as long to say so."""
_END_S = 2.0
"""A file that a server sends has come to its end where no more than this is missing."""


class Shot(NamedTuple):
    """A picture of a source. time_s: on the source's clock; None where it has none. size: width, height, as stored.

    picture: returns RGB [H, W, 3], upright.
    """

    time_s: Fraction | float | None
    size: tuple[int, int]
    picture: Callable[[], NDArray[np.uint8]]


@dataclass(frozen=True, kw_only=True)
class Feed:
    """An open source.

    paced: whether its pictures come faster than they are to be shown, as those of a file do; such a source can wait.
    ends: whether it may be at its end, when no more pictures come after one at this time in seconds; else it was cut.
    """

    shots: Iterator[Shot]
    paced: bool
    ends: Callable[[Fraction | float], bool] = lambda _: False
    close: Callable[[], None] = lambda: None


Opener: TypeAlias = Callable[[], Feed]
"""Raises av.FFmpegError or OSError where the source cannot be opened now, InputError where it never can."""


def source_name(address: str) -> str:
    """Return what a source is called in output: without user, password and query."""
    if "://" not in address:
        return address
    parts = urlsplit(address)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def opener_of(address: str) -> Opener:
    """Return what opens a source: a file, /dev/videoN, or an address with rtsp://, rtsps://, http:// or https://."""
    scheme, found, _ = address.partition("://")
    if _CAMERA.fullmatch(address):
        return lambda: _open(address, format="v4l2", options={})
    if not found:
        if not Path(address).is_file():
            what = "is a folder" if Path(address).is_dir() else "does not exist"
            raise InputError(
                f"The source {address} {what}; give a video file, /dev/videoN or an address such as rtsp://HOST/PATH."
            )
        return lambda: _open(f"file:{address}", file=Path(address), options={"protocol_whitelist": "file"})
    if scheme.lower() not in _SCHEMES:
        raise InputError(f"The source begins with {scheme}://; give a file, /dev/videoN, or {', '.join(_SCHEMES)}://.")
    options = {"protocol_whitelist": "http,https,httpproxy,tcp,tls,crypto"}
    if scheme.lower() in ("rtsp", "rtsps"):
        # Over TCP: lost packets would be damaged pictures.
        options = {"protocol_whitelist": "rtp,udp,tcp,tls,crypto", "rtsp_transport": "tcp", "fflags": "nobuffer"}
        return lambda: _open(address, options=options)
    return lambda: _open(address, may_be_file=True, options=options)


def _open(
    address: str,
    *,
    options: dict[str, str],
    format: str | None = None,
    file: Path | None = None,
    may_be_file: bool = False,
) -> Feed:
    with _explained(file):
        container = av.open(address, mode="r", format=format, options=options, timeout=(SILENCE_S, SILENCE_S))
    stream = container.streams.best("video")
    if not isinstance(stream, VideoStream):
        container.close()
        raise InputError(f"{source_name(address)} holds no video stream.")
    length = container.duration if may_be_file else None
    end_s = None if length is None else (length + (container.start_time or 0)) / av.time_base
    return Feed(
        shots=_shots(container, stream, file),
        paced=file is not None or end_s is not None,
        ends=lambda time_s: file is not None or (end_s is not None and time_s >= end_s - _END_S),
        close=container.close,
    )


@contextmanager
def _explained(file: Path | None) -> Iterator[None]:
    """Raise InputError where a file is no video or is damaged: opened again, it would be so again."""
    try:
        yield
    except av.FFmpegError as error:
        if file is None:
            raise
        raise undecodable(file, error.strerror) from error


def _shots(container: InputContainer, stream: VideoStream, file: Path | None) -> Iterator[Shot]:
    with _explained(file):
        for frame in container.decode(stream):
            time_s = None if frame.pts is None or frame.time_base is None else frame.pts * frame.time_base
            yield Shot(time_s, (frame.width, frame.height), partial(_picture, frame))


def _picture(frame: VideoFrame) -> NDArray[np.uint8]:
    side_data: Any = frame.side_data
    matrix = side_data.get(SideData.DISPLAYMATRIX)
    turn = None if matrix is None else turn_of_matrix(np.frombuffer(bytes(matrix), dtype=np.int32).tolist())
    stored_HW3 = np.asarray(frame.to_ndarray(format="rgb24"), dtype=np.uint8)
    return np.ascontiguousarray((turn or Turn()).shown(stored_HW3))
