"""The sound of a video file, for a copy of it in MP4."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from fractions import Fraction
from itertools import chain
from math import ceil
from pathlib import Path
from typing import Any

import av
from av.audio.codeccontext import AudioCodecContext
from av.audio.stream import AudioStream
from av.container import InputContainer, OutputContainer
from av.format import Flags
from av.packet import Packet

from stal_data.media.video_packets import CLOCK_JUMP_S, CLOCK_SLACK_S, has_flag, open_video

_COPIED = ("aac", "flac", "mp3", "opus")
"""The codecs that browsers play in MP4."""
_LEAST_MP3_RATE = 16_000
"""MP4 has no lower one."""
_AAC_RATE = 48_000
"""Where AAC has not the rate of the source."""


@contextmanager
def copying_sound(source: Path, file: OutputContainer) -> Iterator[Callable[[float], None]]:
    """Yield what writes the sound of a file into an MP4 up to a second, with no more than a few packets in memory.

    Seconds are those of a player: at 0 the source begins to play, with sound or a picture, whichever is first. The
    packets are copied, or else the sound becomes AAC. Without sound that decodes here, nothing is written.
    """
    container, video = open_video(source)
    with container:
        stream = container.streams.best("audio", related=video)
        codec: AudioCodecContext | None = stream.codec_context if isinstance(stream, AudioStream) else None
        if not isinstance(stream, AudioStream) or codec is None or not codec.sample_rate:
            yield lambda _second: None
            return
        name, rate = codec.name.removesuffix("float"), codec.sample_rate
        if name in _COPIED and not (name == "mp3" and rate < _LEAST_MP3_RATE):
            packets = _copied(_timed(container, stream), file.add_stream_from_template(stream))
        else:
            rates = av.Codec("aac", "w").audio_rates or ()
            made = file.add_stream("aac", rate=rate if rate in rates else _AAC_RATE)
            made.layout = "mono" if codec.channels == 1 else "stereo"
            packets = _as_aac(_timed(container, stream), stream, made)
        least_s = Fraction(-1)  # of the next packet: before 0 there is what a decoder needs for the first sample

        def write(second: float) -> None:
            nonlocal least_s
            while least_s <= second and (packet := next(packets, None)) is not None:
                packet.pts = packet.dts = max(packet.dts or 0, ceil(least_s / packet.time_base))
                least_s = packet.dts * packet.time_base + Fraction(1, rate)
                with suppress(av.InvalidDataError):  # damaged: a gap, as in a player
                    file.mux(packet)

        yield write


def _timed(container: InputContainer, stream: AudioStream) -> Iterator["Packet[AudioStream]"]:
    """Yield packets with their times from the start of the file on; where the clock jumps, it is made to run on."""
    assert stream.time_base is not None
    start = container.start_time
    expected: int | None = None
    begin = None if start is None else round(Fraction(start, av.time_base) / stream.time_base)
    may_jump = has_flag(container, Flags.ts_discont)
    for packet in container.demux(stream):
        if not packet.size:
            continue
        stamp = packet.pts if packet.dts is None else packet.dts
        begin = stamp or 0 if begin is None else begin
        time = expected or 0 if stamp is None else stamp - begin
        if expected is not None:
            ahead = (time - expected) * stream.time_base
            if -ahead > CLOCK_SLACK_S or (may_jump and ahead > CLOCK_JUMP_S):
                begin, time = begin + time - expected, expected
        packet.pts = packet.dts = time  # sound is stored in the order in which it is heard
        expected = time + (packet.duration or 0)
        yield packet


def _copied(packets: Iterator["Packet[AudioStream]"], made: AudioStream) -> Iterator["Packet[Any]"]:
    for packet in packets:
        packet.stream = made
        yield packet


def _as_aac(
    packets: Iterator["Packet[AudioStream]"], stream: AudioStream, made: AudioStream
) -> Iterator["Packet[Any]"]:
    kind = None
    for packet in chain(packets, [None]):
        try:
            frames = stream.codec_context.decode(packet)
        except av.FFmpegError:  # damaged
            continue
        for frame in frames:
            if kind != (kind := (frame.format.name, frame.layout.name, frame.sample_rate)):  # may change
                resampler = av.AudioResampler("fltp", made.layout, made.rate)
            for sound in resampler.resample(frame):
                yield from made.encode(sound)
    yield from made.encode(None)
