"""The compressed pictures of a video file in the order in which they are stored, read without decoding.

A packet's number, from 0, is what a picture is known by. Times are no identity: they repeat where recordings were
joined, and some containers have none.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, TypeAlias

import av
import numpy as np
from av.container import InputContainer
from av.format import Flags
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray

from stal_data.errors import InputError, NotFoundError

VideoPacket: TypeAlias = "Packet[VideoStream]"

CLOCK_JUMP_S = 10
"""A longer gap is closed where a format's clock may jump, as ffmpeg does (its -dts_delta_threshold)."""
CLOCK_SLACK_S = Fraction(1, 10)
"""A clock that goes back by more has started anew, as ffmpeg sees it."""
MAX_DELAY = 16
"""Most pictures that are stored, and so come out of a decoder, before one that is shown earlier."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Packets:
    """One entry for each packet that holds data.

    pts, dts: times of presentation and of decoding in units of time_base; None where the file has none.
    parts: how often the clock had jumped before; their times are shifted so that the parts follow one another.
    sizes in bytes. places: byte offsets in the file, -1 where the container tells none.
    keys: whether decoding can start there. discarded: cut off by an edit list; needed to decode others, never shown.
    jumps: seconds by which the clock jumped, one for each part but the first.
    """

    time_base: Fraction
    pts: list[int | None]
    dts: list[int | None]
    durations: list[int]
    parts: NDArray[np.int64]
    sizes: NDArray[np.int64]
    places: NDArray[np.int64]
    keys: NDArray[np.bool_]
    discarded: NDArray[np.bool_]
    jumps: list[float]


def open_video(path: Path) -> tuple[InputContainer, VideoStream]:
    """Open a file (never an address) and its main video stream."""
    if not path.is_file():
        raise NotFoundError(f"The video file {path} does not exist.")
    try:
        container = av.open(f"file:{path}", mode="r", options={"protocol_whitelist": "file"})
    except (av.FFmpegError, OSError) as error:
        raise undecodable(path, error) from error
    stream = container.streams.best("video")
    if not isinstance(stream, VideoStream) or stream.time_base is None:
        container.close()
        raise InputError(f"{path} holds no video stream.")
    stream.thread_type = "FRAME"  # with threads for parts of a picture, what stands in for lost ones varies
    return container, stream


def undecodable(path: Path, reason: object) -> InputError:
    return InputError(
        f"{path} does not decode as a video ({reason}): check the file with a player, convert it anew "
        "(for example `ffmpeg -i IN -c:v libx264 OUT.mp4`), or leave it out."
    )


def has_flag(container: InputContainer, flag: Flags) -> bool:
    """Whether a container's format is of that kind."""
    mask: Any = flag.value
    return bool(container.format.flags & mask)


def packets_of(container: InputContainer, stream: VideoStream) -> Iterator[VideoPacket]:
    """Yield the packets that hold data, from where the container stands."""
    return (packet for packet in container.demux(stream) if packet.size)


def decode(
    stream: VideoStream,
    numbered: Iterable[tuple[int, VideoPacket]],
    failed: Callable[[int, av.FFmpegError], None] | None = None,
) -> Iterator[VideoFrame]:
    """Yield the pictures of packets as the decoder gives them out, in the order in which they are shown.

    A picture's pts is the number of its packet, its dts that of the packet at which it came out, None at the end.
    failed: told of a packet that does not decode; when it returns, the next one follows. At the end it is told of the
        last packet, whichever the decoder means.
    """
    decoder = stream.codec_context
    number = 0
    for number, packet in numbered:
        packet.pts = packet.dts = number
        try:
            frames = decoder.decode(packet)
        except av.FFmpegError as error:
            if failed is not None:
                failed(number, error)
            continue
        yield from (frame for frame in frames if frame.pts is not None)
    try:
        frames = decoder.decode(None)
    except av.FFmpegError as error:
        if failed is None:
            raise
        failed(number, error)
        return
    yield from (frame for frame in frames if frame.pts is not None)


def read_packets(container: InputContainer, stream: VideoStream) -> Packets:
    """Read all packets of a stream, with the clock made to run on where it starts anew."""
    pts: list[int | None] = []
    dts: list[int | None] = []
    rows: list[tuple[int, int, int, bool, bool]] = []
    assert stream.time_base is not None
    for packet in packets_of(container, stream):
        pts.append(packet.pts)
        dts.append(packet.dts)
        place = -1 if packet.pos is None else packet.pos
        rows.append((packet.duration or 0, packet.size, place, packet.is_keyframe, packet.is_discard))
    lengths, sizes, places, keys, discarded = zip(*rows, strict=True) if rows else ((), (), (), (), ())
    step = _usual_duration(stream)
    durations = [length or step for length in lengths]
    may_jump = has_flag(container, Flags.ts_discont)
    parts, jumps = _part_numbers(pts, dts, durations, stream.time_base, may_jump)
    if jumps:
        first, second = (pts, dts) if any(time is not None for time in pts) else (dts, pts)
        _join_parts(first, second, parts, durations)
    return Packets(
        time_base=stream.time_base,
        pts=pts,
        dts=dts,
        durations=durations,
        parts=parts,
        sizes=np.array(sizes, dtype=np.int64),
        places=np.array(places, dtype=np.int64),
        keys=np.array(keys, dtype=np.bool_),
        discarded=np.array(discarded, dtype=np.bool_),
        jumps=jumps,
    )


def _usual_duration(stream: VideoStream) -> int:
    rate = stream.guessed_rate or stream.average_rate
    assert stream.time_base is not None
    return max(1, round(1 / rate / stream.time_base)) if rate else 1


def _part_numbers(
    pts: list[int | None], dts: list[int | None], durations: list[int], time_base: Fraction, may_jump: bool
) -> tuple[NDArray[np.int64], list[float]]:
    parts = np.zeros(len(dts), dtype=np.int64)
    jumps: list[float] = []
    latest: int | None = None
    expected = 0
    for number, time in enumerate(dts):
        if time is None:
            expected += durations[number]
        else:
            if latest is not None:
                ahead = (time - expected) * time_base
                if (latest - time) * time_base > CLOCK_SLACK_S or (may_jump and abs(ahead) > CLOCK_JUMP_S):
                    jumps.append(float(ahead))
                    _move_early_pictures(pts, dts, parts, number, ahead / time_base / 2)
            latest, expected = time, time + durations[number]
        parts[number] = len(jumps)
    return parts, jumps


def _move_early_pictures(
    pts: list[int | None], dts: list[int | None], parts: NDArray[np.int64], jump: int, far: Fraction
) -> None:
    """Count as behind a jump what is stored before it and shown behind it: pictures that others refer to."""
    for number in range(max(0, jump - MAX_DELAY), jump):
        presented, decoded = pts[number], dts[number]
        if presented is not None and decoded is not None and presented - decoded > far > 0:
            parts[number] += 1


def _join_parts(
    times: list[int | None], other: list[int | None], parts: NDArray[np.int64], durations: list[int]
) -> None:
    """Shift each part's times so that it begins when the one before it ends; `other` is shifted alike."""
    end: int | None = None
    order = np.argsort(parts, kind="stable")
    for numbers in np.split(order, np.flatnonzero(np.diff(parts[order])) + 1):
        known = [(time, durations[number]) for number in numbers if (time := times[number]) is not None]
        shift = 0 if end is None or not known else end - min(known)[0]
        for number in numbers:
            for values in (times, other):
                value = values[number]
                values[number] = None if value is None else value + shift
        if known:
            last, duration = max(known)
            end = last + duration + shift
