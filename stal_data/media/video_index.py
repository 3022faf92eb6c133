"""Every presentation time of a video file, read once without decoding: exact for any frame rate and any start."""

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from av.video.stream import VideoStream
from numpy.typing import NDArray

from stal_data.errors import InputError, NotFoundError
from stal_data.media import MediaInfo
from stal_data.media.timeline import num_slots, slots_of_times


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoIndex:
    """The pictures of one video in the order in which they are shown; a position counts them from 0.

    ticks: presentation times in units of time_base (seconds), ascending.
    slots: their places on the 25 fps time line, from 0.
    key_positions: pictures at which decoding can start, ascending, the first is 0.
    quarter_turns: counterclockwise quarter turns that show the picture upright.
    """

    info: MediaInfo
    time_base: Fraction
    ticks: NDArray[np.int64]
    slots: NDArray[np.int64]
    key_positions: NDArray[np.int64]
    quarter_turns: int

    def positions(self, frames: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return which picture each frame (from 1) of the time line shows."""
        return np.maximum(np.searchsorted(self.slots, frames - 1, side="right") - 1, 0)

    def position_of_tick(self, tick: int) -> int:
        """Return the picture at a time, or the one before it."""
        return int(np.searchsorted(self.ticks, tick, side="right")) - 1


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
    stream.thread_type = "AUTO"
    return container, stream


def undecodable(path: Path, reason: object) -> InputError:
    return InputError(
        f"{path} does not decode as a video ({reason}): check the file with a player, convert it anew "
        "(for example `ffmpeg -i IN -c:v libx264 OUT.mp4`), or leave it out."
    )


def read_index(path: Path, clock_start_s: float) -> VideoIndex:
    """Read the index of a file. clock_start_s: what the key frames' clock shows when the file begins to play."""
    container, stream = open_video(path)
    with container:
        time_base = stream.time_base
        assert time_base is not None
        try:
            ticks, keys, end = _read_times(container, stream)
            file_start = Fraction(container.start_time or 0, av.time_base)
        except (av.FFmpegError, OSError) as error:
            raise undecodable(path, error) from error
    if not keys.size:
        raise undecodable(path, "it has no picture at which decoding can start")
    ticks = ticks[ticks >= keys[0]]  # what comes before the first key picture does not decode
    first, last = int(ticks[0]), int(ticks[-1])
    if end <= last:  # MPEG-TS gives no durations: the last picture lasts as long as most do
        end = last + (int(np.median(np.diff(ticks))) if len(ticks) > 1 else 1)
    duration = (end - first) * time_base
    width, height, quarter_turns = _first_picture(path)
    info = MediaInfo(
        width=width,
        height=height,
        rate=(len(ticks) / duration).limit_denominator(1001),
        num_frames=num_slots(duration),
        start_s=clock_start_s + float(first * time_base - file_start),
        duration_s=float(duration),
    )
    key_positions = np.searchsorted(ticks, keys)
    return VideoIndex(
        info=info,
        time_base=time_base,
        ticks=ticks,
        slots=slots_of_times(ticks - first, time_base),
        key_positions=key_positions,
        quarter_turns=quarter_turns,
    )


def _read_times(container: InputContainer, stream: VideoStream) -> tuple[NDArray[np.int64], NDArray[np.int64], int]:
    """Return all presentation times, those of key pictures (both ascending) and the end of the last picture."""
    ticks, keys, end = [], [], 0
    for packet in container.demux(stream):
        tick = packet.pts if packet.pts is not None else packet.dts
        if tick is None or packet.is_discard:  # the empty packet at the end; pictures cut off by an edit list
            continue
        ticks.append(tick)
        end = max(end, tick + (packet.duration or 0))
        if packet.is_keyframe:
            keys.append(tick)
    return np.unique(np.array(ticks, dtype=np.int64)), np.unique(np.array(keys, dtype=np.int64)), end


def _first_picture(path: Path) -> tuple[int, int, int]:
    """Return width and height as shown, and the counterclockwise quarter turns that lead there."""
    container, stream = open_video(path)
    with container:
        try:
            picture = next(container.decode(stream))
        except (av.FFmpegError, OSError, StopIteration) as error:
            raise undecodable(path, error or "it has no picture") from error
        quarter_turns = round(picture.rotation / 90) % 4
        width, height = picture.width, picture.height
        return (height, width, quarter_turns) if quarter_turns % 2 else (width, height, quarter_turns)
