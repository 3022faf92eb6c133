"""Decodes one video file, forwards where possible, and keeps the last few seconds for windows that overlap."""

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from av.video.frame import PictureType, VideoFrame
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream
from numpy.typing import NDArray

from stal_data.errors import InputError
from stal_data.media.video_index import VideoIndex
from stal_data.media.video_packets import MAX_DELAY, VideoPacket, decode, open_video, packets_of, undecodable

KEPT_S = 5.12
"""Two clip spans: windows a second apart then find all that they share."""
KEPT_BYTES = 256 << 20
"""256 MiB, a bound for large pictures; what no longer fits is decoded again when asked for."""

MIN_SKIP = 50
"""Pictures that a seek must save: it costs about as much, and drops the pictures that are kept."""
MAX_UNKNOWN = 500
"""Packets after a seek among which one must be known by its place in the file."""


class _LostError(Exception):
    """What the container gives is not what the index says."""


class _EndedError(OSError):
    """Fewer pictures than the index says: several threads may drop all behind a damaged packet without a word."""


def rgb_pictures(frames: Iterable[VideoFrame], index: VideoIndex) -> Iterator[NDArray[np.uint8]]:
    """Yield decoded pictures of a video as HW3 RGB, upright; several threads may do so at once."""
    reformatter = VideoReformatter()
    for frame in frames:
        rgb = reformatter.reformat(frame, width=index.width, height=index.height, format="rgb24")
        yield index.turn.shown(np.asarray(rgb.to_ndarray(), dtype=np.uint8))


class VideoReader:
    """One open file. Not safe to share between threads; `VideoFiles` hands it to one at a time.

    A picture is the same whatever was read before: packets are known by their numbers, also after a seek, and a key
    picture counts only after it was seen to be one.
    """

    def __init__(self, path: Path, index: VideoIndex) -> None:
        self._path, self._index = path, index
        self._opened: tuple[InputContainer, VideoStream] | None = None
        self._frames: Iterator[VideoFrame] = iter(())
        self._begin = 0  # position of the picture that decoding began with; those before it may not decode
        self._latest = -1  # highest position that was decoded since the last seek; -1 before the first
        self._kept: OrderedDict[int, VideoFrame] = OrderedDict()  # by position
        self._kept_bytes = 0
        self._empty: set[int] = set()  # positions whose packets hold no picture of their own
        self._seekable = index.seekable
        self._bad_keys: set[int] = set()  # of index.keys: those from which decoding does not start well
        # Several decoding threads tell too late which packet is damaged. So the first error makes the reader start
        # again with one thread, which then notes the numbers.
        self._one_thread = False
        self._damaged: dict[int, str] = {}

    def close(self) -> None:
        self._forget()
        if self._opened is not None:
            self._opened[0].close()
            self._opened = None

    def frame(self, position: int) -> VideoFrame:
        """Return the decoded picture at a position of the index, for `rgb_pictures`."""
        # A packet may hold no picture of its own (VP8's alternate references, second fields): the one before stays on.
        for shown in range(position, -1, -1):
            if shown in self._empty:
                continue
            frame = self._kept.get(shown) if self._latest >= self._last_needed(shown) else None
            frame = frame or self._decode(shown)
            self._check(shown)
            if frame is not None:
                return frame
            self._empty.add(shown)
        raise self._problem("no picture", position)

    def _check(self, position: int) -> None:
        """Refuse a picture that refers to a damaged packet, or may do so."""
        index = self._index
        begin, end = index.keys[index.key_of(position)], index.numbers[position]
        for number, error in self._damaged.items():
            if begin <= number <= end:
                raise self._problem(error, position)

    def _decode(self, position: int) -> VideoFrame | None:
        """Return the picture of a packet; None if it holds none."""
        try:
            return self._advance(position)
        except _LostError:
            self.close()
            if not self._seekable:
                raise self._problem("the file changed while it was read", position) from None
            self._seekable = False
        except (av.FFmpegError, OSError) as error:
            self.close()
            if self._one_thread:
                raise self._problem(error, position) from error
            self._one_thread = True
        return self._decode(position)

    def _advance(self, position: int) -> VideoFrame | None:
        key = self._index.key_of(position) if self._seekable else 0
        while key in self._bad_keys:
            key -= 1
        found = self._kept.get(position)
        passed = found is None and position <= self._latest
        if self._opened is None or passed or self._index.key_positions[key] > self._latest + MIN_SKIP:
            self._seek(key)
            found = self._kept.get(position)
        last = self._last_needed(position)
        while (found is None and self._latest < position + MAX_DELAY) or self._latest < last:
            frame = next(self._frames, None)
            if frame is None:
                if not self._one_thread:
                    raise _EndedError
                break
            self._keep(frame)
            found = found or self._kept.get(position)
        return found

    def _last_needed(self, position: int) -> int:
        """Return the last position among the pictures that this one may refer to: whether they are damaged counts."""
        number = self._index.numbers[position]
        before = self._index.positions[max(0, number - MAX_DELAY) : number]
        return max(position, int(before.max(initial=0)))

    def _seek(self, key: int) -> None:
        """Make a key picture the last decoded one; where that fails, one further back."""
        step = 1
        while key > 0 and not self._start(key):
            self._bad_keys.add(key)
            key, step = max(0, key - step), step * 2
        if key == 0:
            self._start_anew()

    def _start_anew(self) -> None:
        self.close()
        self._opened = container, stream = open_video(self._path)
        if self._one_thread:
            stream.codec_context.thread_count = 1
        self._frames = self._decoded(stream, enumerate(packets_of(container, stream)), int(self._index.keys[0]))

    def _start(self, key: int) -> bool:
        """Begin to decode at a key; False if the container does not find it, or it turns out to be none."""
        self._forget()
        if self._opened is None:
            self._start_anew()
            next(self._frames, None)  # headers that only the beginning of the file holds
        assert self._opened is not None
        container, stream = self._opened
        number, shown = int(self._index.keys[key]), int(self._index.key_positions[key])
        self._begin = shown
        self._frames = self._decoded(stream, self._after_seek(container, stream, number), number)
        for frame in self._frames:
            if frame.pts == number and frame.pict_type in (PictureType.P, PictureType.B):
                return False  # a stream that is renewed bit by bit has no picture that stands alone
            position = self._index.positions[frame.pts]
            if position >= shown:  # those before refer to pictures before the key
                self._keep(frame)
                return bool(position == shown)
        return False

    def _after_seek(
        self, container: InputContainer, stream: VideoStream, target: int
    ) -> Iterator[tuple[int, VideoPacket]]:
        """Seek to a packet and yield what comes, numbered; nothing if the container goes elsewhere."""
        packets = self._index.packets
        time = packets.pts[target] if packets.dts[target] is None else packets.dts[target]
        assert time is not None
        try:
            container.seek(time, stream=stream)
        except av.FFmpegError:
            return
        number = -1
        for passed, packet in enumerate(packets_of(container, stream)):
            if number < 0:
                if passed == MAX_UNKNOWN:
                    return
                found = np.flatnonzero((packets.places == packet.pos) & (packets.sizes == packet.size))
                if packet.pos is None or packet.pos < 0 or len(found) != 1:
                    continue
                number = int(found[0])
                if number > target:
                    return
            yield number, packet
            number += 1

    def _decoded(
        self, stream: VideoStream, numbered: Iterable[tuple[int, VideoPacket]], first: int
    ) -> Iterator[VideoFrame]:
        """Decode from a packet on; every packet must be the one that the index knows."""
        sizes = self._index.packets.sizes

        def checked() -> Iterator[tuple[int, VideoPacket]]:
            number = None
            for number, packet in numbered:
                if number >= len(sizes) or packet.size != sizes[number]:
                    raise _LostError
                if number >= first:
                    yield number, packet
            if number is not None and number < len(sizes) - 1:
                raise _LostError

        return decode(stream, checked(), self._failed)

    def _failed(self, number: int, error: av.FFmpegError) -> None:
        if not self._one_thread:
            raise error
        self._note_damage(number, str(error))

    def _note_damage(self, number: int, reason: str) -> None:
        if not 0 <= self._index.positions[number] < self._begin:
            self._damaged[number] = reason

    def _keep(self, frame: VideoFrame) -> None:
        position = int(self._index.positions[frame.pts])
        if position < 0:
            return
        if frame.is_corrupt:  # what stands in for the lost parts depends on what was decoded before
            self._note_damage(int(self._index.numbers[position]), "a damaged picture")
        self._latest = max(self._latest, position)
        self._kept[position] = frame
        self._kept_bytes += _num_bytes(frame)
        seconds = self._index.seconds
        while len(self._kept) > 2 and (
            self._kept_bytes > KEPT_BYTES or seconds[position] - seconds[next(iter(self._kept))] > KEPT_S
        ):
            self._kept_bytes -= _num_bytes(self._kept.popitem(last=False)[1])

    def _forget(self) -> None:
        self._kept.clear()
        self._kept_bytes = 0
        self._latest = -1
        self._begin = 0
        self._frames = iter(())

    def _problem(self, reason: object, position: int) -> InputError:
        return undecodable(self._path, f"{reason}, near {self._index.seconds[position]:.2f} s")


def _num_bytes(frame: VideoFrame) -> int:
    return sum(plane.buffer_size for plane in frame.planes)
