"""Decodes one video file, forwards where possible, and keeps the last few seconds for windows that overlap."""

from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream
from numpy.typing import NDArray

from stal_data.media.video_index import VideoIndex, open_video, undecodable

KEPT_S = 5.12
"""Two clip spans: windows a second apart then find all that they share."""
KEPT_BYTES = 256 << 20
"""256 MiB, a bound for large pictures; what no longer fits is decoded again when asked for."""

MIN_SKIP = 50
"""Pictures that a seek must save: it costs about as much, and drops the pictures that are kept."""


class VideoReader:
    """One open file. Not safe to share between threads; `VideoFiles` hands it to one at a time."""

    def __init__(self, path: Path, index: VideoIndex) -> None:
        self._path, self._index = path, index
        self._opened: tuple[InputContainer, VideoStream] | None = None
        self._decoder: Iterator[VideoFrame] = iter(())
        self._reformatter = VideoReformatter()
        self._latest = -1  # position of the last decoded picture; -1 before the first
        self._kept: OrderedDict[int, VideoFrame] = OrderedDict()  # by position, ascending
        self._kept_bytes = 0

    def close(self) -> None:
        self._forget()
        if self._opened is not None:
            self._opened[0].close()
            self._opened = None

    def picture(self, position: int) -> NDArray[np.uint8]:
        """Return the picture at a position of the index as HW3 RGB, upright."""
        frame = self._kept.get(position) or self._decode(position)
        info, turns = self._index.info, self._index.quarter_turns
        width, height = (info.height, info.width) if turns % 2 else (info.width, info.height)
        rgb_HW3 = self._reformatter.reformat(frame, width=width, height=height, format="rgb24").to_ndarray()
        return np.asarray(np.rot90(rgb_HW3, turns), dtype=np.uint8)

    def _decode(self, position: int) -> VideoFrame:
        keys = self._index.key_positions
        key_number = int(np.searchsorted(keys, position, side="right")) - 1
        try:
            if position <= self._latest or keys[key_number] > self._latest + MIN_SKIP or self._opened is None:
                self._seek(key_number)
            while self._latest < position and (frame := next(self._decoder, None)) is not None:
                self._keep(frame)
        except (av.FFmpegError, OSError) as error:
            self.close()
            raise undecodable(self._path, f"{error}, near {self._second(position):.2f} s") from error
        # A packet may hold no picture of its own (VP8's alternate references, second fields): the one before stays on.
        found = self._kept.get(position) or self._kept.get(position - 1)
        if found is None:
            raise undecodable(self._path, f"no picture at {self._second(position):.2f} s")
        return found

    def _seek(self, key_number: int) -> None:
        """Make a key picture the last decoded one; containers without an index may need a start further back."""
        target = int(self._index.key_positions[key_number])
        start, step = key_number, 1
        while not self._start(start, target):
            if start == 0:
                raise undecodable(self._path, f"no picture at {self._second(target):.2f} s")
            start, step = max(0, start - step), step * 2

    def _start(self, key_number: int, target: int) -> bool:
        """Decode from a key picture up to the target; False if the decoder started behind the target."""
        self._forget()
        if key_number == 0 or self._opened is None:
            self.close()
            self._opened = open_video(self._path)
        container, stream = self._opened
        if key_number > 0:
            container.seek(int(self._index.ticks[self._index.key_positions[key_number]]), stream=stream)
        self._decoder = container.decode(stream)
        for frame in self._decoder:
            position = self._position(frame)
            if position >= target:
                self._keep(frame)
                return position == target
        return False

    def _position(self, frame: VideoFrame) -> int:
        tick = frame.pts if frame.pts is not None else frame.dts
        if tick is None:
            raise undecodable(self._path, "its pictures carry no times")
        return self._index.position_of_tick(tick)

    def _keep(self, frame: VideoFrame) -> None:
        self._latest = self._position(frame)
        self._kept[self._latest] = frame
        self._kept_bytes += _num_bytes(frame)
        while len(self._kept) > 2 and (
            self._kept_bytes > KEPT_BYTES or self._second(self._latest) - self._second(next(iter(self._kept))) > KEPT_S
        ):
            self._kept_bytes -= _num_bytes(self._kept.popitem(last=False)[1])

    def _forget(self) -> None:
        self._kept.clear()
        self._kept_bytes = 0
        self._latest = -1

    def _second(self, position: int) -> float:
        """Return the time of a picture, counted from the first."""
        return float((int(self._index.ticks[position]) - int(self._index.ticks[0])) * self._index.time_base)


def _num_bytes(frame: VideoFrame) -> int:
    return sum(plane.buffer_size for plane in frame.planes)
