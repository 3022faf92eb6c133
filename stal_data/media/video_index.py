"""Which picture of a video file is shown when: read once, without decoding wherever the file's times tell it."""

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.container import InputContainer
from av.format import Flags
from av.sidedata.sidedata import Type as SideData
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray

from stal_data.errors import InputError
from stal_data.media import MediaInfo
from stal_data.media.timeline import FPS, MAX_SPAN_S, slots_of_times
from stal_data.media.turning import Turn, turn_of_matrix
from stal_data.media.video_packets import Packets, decode, has_flag, open_video, packets_of, read_packets, undecodable

LONG_S = 10
"""A picture that is shown for longer is reported: key frames there all look the same."""
MAX_NOTES = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoIndex:
    """The pictures of one video in the order in which they are shown; a position counts them from 0.

    width, height: as stored. turn: what shows the picture upright.
    seconds: when each picture is shown, counted from the first, ascending. slots: their places on the 25 fps time line.
    numbers: the packet of each picture. positions: the picture of each packet, -1 where it shows none.
    keys: packets at which decoding can start, ascending. key_positions: the first picture that is shown from there on.
    seekable: whether the container finds a key packet by its time.
    """

    info: MediaInfo
    width: int
    height: int
    turn: Turn
    seconds: NDArray[np.float64]
    slots: NDArray[np.int64]
    numbers: NDArray[np.int64]
    positions: NDArray[np.int64]
    keys: NDArray[np.int64]
    key_positions: NDArray[np.int64]
    packets: Packets
    seekable: bool

    def shown_at(self, frames: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return which picture each frame (from 1) of the time line shows."""
        return np.maximum(np.searchsorted(self.slots, frames - 1, side="right") - 1, 0)

    def key_of(self, position: int) -> int:
        """Return which of `keys` is the last from which a picture can be decoded."""
        key = int(np.searchsorted(self.keys, self.numbers[position], side="right")) - 1
        while key > 0 and self.key_positions[key] > position:  # it is shown before the key picture that it follows
            key -= 1
        return max(key, 0)


@dataclass(frozen=True, slots=True)
class _Shown:
    """Packets in the order in which their pictures are shown, and when, in units of the time base.

    key_positions: as in VideoIndex. begin: when the first is shown, on the clock of the file.
    """

    numbers: NDArray[np.int64]
    ticks: NDArray[np.int64]
    key_positions: NDArray[np.int64]
    begin: int


def read_index(path: Path, clock_start_s: float) -> VideoIndex:
    """Read the index of a file. clock_start_s: what the key frames' clock shows when the file begins to play."""
    container, stream = open_video(path)
    with container:
        try:
            packets = read_packets(container, stream)
            timed = _has_picture_times(container, stream, packets)
            doubted = _may_be_reordered(stream, packets)
            file_start = container.start_time
            may_jump = has_flag(container, Flags.ts_discont)
        except (av.FFmpegError, OSError) as error:
            raise undecodable(path, error) from error
    keys = np.flatnonzero(packets.keys)
    if not keys.size:
        raise undecodable(path, "it has no picture at which decoding can start")
    try:
        shown = _by_times(packets, keys) if timed and not doubted else _by_decoding(path, packets, keys, timed=timed)
    except OverflowError as error:
        raise undecodable(path, "its times are out of range") from error
    if not shown.numbers.size:
        raise undecodable(path, "it has no picture")
    first = _first_picture(path, int(keys[0]))
    turn = _turn_of(path, first)
    time_base = packets.time_base
    start = int(shown.ticks[0])
    file_begin = shown.begin if file_start is None else round(Fraction(file_start, av.time_base) / time_base)
    end = int(shown.ticks[-1]) + packets.durations[shown.numbers[-1]]
    if max(end, int(shown.ticks.max())) - min(file_begin, int(shown.ticks.min())) > MAX_SPAN_S / time_base:
        raise undecodable(path, f"its times span more than {MAX_SPAN_S // 86400} days")
    # What rounding to 1/25 s makes of a time depends on where ffmpeg's clock starts: with the file, or, where clocks
    # may jump, with the pictures.
    zero = start if may_jump or file_start is None else file_begin
    slots = slots_of_times(shown.ticks - zero, time_base)
    num_frames = max(1, int(slots_of_times(np.array([end - zero]), time_base)[0] - slots[0]))
    slots = np.maximum.accumulate(slots - slots[0])
    duration = max(end - start, 1) * time_base
    seconds = (np.maximum.accumulate(shown.ticks) - start) * float(time_base)
    positions = np.full(len(packets.keys), -1, dtype=np.int64)
    positions[shown.numbers] = np.arange(len(shown.numbers))
    width, height = turn.size(first.width, first.height)
    info = MediaInfo(
        width=width,
        height=height,
        rate=(len(slots) / duration).limit_denominator(1001),
        num_frames=num_frames,
        start_s=clock_start_s + float((shown.begin - file_begin) * time_base),
        duration_s=float(duration),
        notes=tuple(_notes(packets, positions, slots, num_frames)),
    )
    return VideoIndex(
        info=info,
        width=first.width,
        height=first.height,
        turn=turn,
        seconds=seconds,
        slots=slots,
        numbers=shown.numbers,
        positions=positions,
        keys=keys,
        key_positions=shown.key_positions,
        packets=packets,
        seekable=not packets.jumps
        and all(packets.dts[key] is not None or packets.pts[key] is not None for key in keys),
    )


def _has_picture_times(container: InputContainer, stream: VideoStream, packets: Packets) -> bool:
    """Whether the file says when each picture is shown; if not, only decoding tells their order.

    AVI and bare streams have no such times, and what the demuxer makes up is wrong where pictures are stored in
    another order than shown.
    """
    if not stream.codec_context.codec.reorder:
        return all(pts is not None or dts is not None for pts, dts in zip(packets.pts, packets.dts, strict=True))
    if container.format.name == "avi" or has_flag(container, Flags.no_timestamps):
        return False
    return None not in packets.pts


def _may_be_reordered(stream: VideoStream, packets: Packets) -> bool:
    """Whether the header says that pictures are stored in another order than shown, and their times do not.

    Either there are none such, or the stream came from a container without times of pictures.
    """
    codec = stream.codec_context
    if not (codec.codec.reorder and codec.has_b_frames and len(packets.pts) > 1):
        return False
    return all(a is not None and b is not None and a < b for a, b in pairwise(packets.pts))


def _by_times(packets: Packets, keys: NDArray[np.int64]) -> _Shown:
    times = zip(packets.pts, packets.dts, strict=True)
    ticks = np.array([dts if pts is None else pts for pts, dts in times], dtype=np.int64)
    order = np.lexsort((ticks, packets.parts))
    rank = np.empty(len(order), dtype=np.int64)
    rank[order] = np.arange(len(order))
    # What comes before the first key picture does not decode.
    known = (np.arange(len(ticks)) >= keys[0]) & (rank >= rank[keys[0]]) & ~packets.discarded
    numbers = order[known[order]]
    return _Shown(
        numbers, ticks[numbers], np.searchsorted(rank[numbers], rank[keys]), int(min(ticks[numbers], default=0))
    )


def _by_decoding(path: Path, packets: Packets, keys: NDArray[np.int64], *, timed: bool) -> _Shown:
    """Decode the whole file: pictures are shown in the order in which the decoder gives them out.

    As in ffmpeg, a picture's time is the decoding time of the packet at which it came out.
    timed: the file's own times hold where they agree with that order.
    """
    numbers: list[int] = []
    causes: list[int] = []
    container, stream = open_video(path)
    with container:
        try:
            for frame in _decoded(container, stream, int(keys[0])):
                assert frame.pts is not None
                numbers.append(frame.pts)
                if frame.dts is not None:
                    causes.append(frame.dts)
        except (av.FFmpegError, OSError) as error:
            raise undecodable(path, error) from error
    if timed and all(a < b for a, b in pairwise(numbers)):
        return _by_times(packets, keys)
    clock = _decoding_times(packets)
    ticks = [clock[cause] for cause in causes]
    for number in numbers[len(ticks) :]:  # those that come out at the end
        ticks.append(ticks[-1] + packets.durations[number] if ticks else clock[number])
    positions = np.full(len(clock), len(numbers), dtype=np.int64)
    positions[numbers] = np.arange(len(numbers))
    begin = min(clock[keys[0] :])  # the first picture comes out later
    return _Shown(np.array(numbers, dtype=np.int64), np.array(ticks, dtype=np.int64), positions[keys], begin)


def _decoding_times(packets: Packets) -> list[int]:
    """Return the packets' decoding times; where the file has none, they follow one another."""
    clock: list[int] = []
    for number, time in enumerate(packets.dts):
        following = clock[-1] + packets.durations[number - 1] if clock else 0
        clock.append(following if time is None else time)
    return clock


def _decoded(container: InputContainer, stream: VideoStream, first: int) -> Iterator[VideoFrame]:
    """Decode all from a packet on; what does not decode is named when that picture is read."""
    stream.codec_context.thread_count = 1  # which pictures follow a damaged packet would depend on the number
    numbered = enumerate(packets_of(container, stream))
    return decode(stream, (item for item in numbered if item[0] >= first))


def _first_picture(path: Path, first: int) -> VideoFrame:
    container, stream = open_video(path)
    with container:
        try:
            return next(_decoded(container, stream, first))
        except (av.FFmpegError, OSError, StopIteration) as error:
            raise undecodable(path, error or "it has no picture") from error


def _turn_of(path: Path, picture: VideoFrame) -> Turn:
    side_data: Any = picture.side_data
    matrix = side_data.get(SideData.DISPLAYMATRIX)
    if matrix is None:
        return Turn()
    turn = turn_of_matrix(np.frombuffer(bytes(matrix), dtype=np.int32).tolist())
    if turn is None:
        raise InputError(
            f"{path} says that it is to be shown turned by an angle that is no multiple of 90 degrees: turn it with "
            "`ffmpeg -i IN OUT.mp4`, or leave it out."
        )
    return turn


def _notes(packets: Packets, positions: NDArray[np.int64], slots: NDArray[np.int64], num_frames: int) -> Iterator[str]:
    """Yield what `MediaInfo.notes` is to say, the first MAX_NOTES of each kind."""
    for part, ahead in islice(enumerate(packets.jumps, start=1), MAX_NOTES):
        later = positions[(packets.parts >= part) & (positions >= 0)]
        if later.size:
            yield (
                f"its clock jumps by {ahead:+.1f} s at {slots[later.min()] / FPS:.2f} s; from there on, seconds are "
                "counted as if it did not, as ffmpeg does"
            )
    lengths = np.diff(slots, append=num_frames)
    long = np.flatnonzero(lengths > LONG_S * FPS)
    for position in long[:MAX_NOTES]:
        begin, end = slots[position] / FPS, (slots[position] + lengths[position]) / FPS
        yield f"it has no other picture from {begin:.2f} s to {end:.2f} s, so key frames in between are all alike"
    more = max(0, len(packets.jumps) - MAX_NOTES) + max(0, len(long) - MAX_NOTES)
    if more:
        yield f"there are {more} more such places"
