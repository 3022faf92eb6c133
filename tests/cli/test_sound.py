"""The sound of annotated videos: a tone that is heard at the second at which it is heard in the source."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.packet import Packet

from cli.workflow.results.annotated_video import write_annotated_video
from tests.cli.results_case import NAMES, people_in, person
from tests.data.videos import constant, numbered_picture, write_video

TONE_S = (1.0, 1.5)
OUT = "annotated.mp4"


def write_with_tone(
    path: Path,
    codec: str,
    *,
    pictures_s: list[Fraction],
    picture_codec: str = "libx264",
    sound_s: tuple[float, float] = (0, 3),
    rate: int = 48_000,
    layout: str = "stereo",
    step_s: Fraction = Fraction(0),
) -> Path:
    """Pictures and sound at their times on the clock of the file: 440 Hz within TONE_S, else silence.

    step_s: of the clock of the sound, if coarse.
    """
    with av.open(str(path), "w") as file:
        video = file.add_stream(picture_codec, rate=25)
        video.width, video.height, video.pix_fmt = 80, 48, "yuv420p"
        video.codec_context.time_base = Fraction(1, 1000)
        audio = file.add_stream(codec, rate=rate)
        audio.layout = layout
        packets: list[Packet] = []
        for number, time_s in enumerate(pictures_s):
            picture = av.VideoFrame.from_ndarray(numbered_picture(number), "rgb24")
            picture.pts, picture.time_base = round(1000 * time_s), Fraction(1, 1000)
            packets += video.encode(picture)
        packets += video.encode(None)
        for start in range(round(sound_s[0] * rate), round(sound_s[1] * rate), 1000):
            seconds = (start + np.arange(1000)) / rate
            tone = np.sin(2 * np.pi * 440 * seconds) * ((seconds >= TONE_S[0]) & (seconds < TONE_S[1]))
            sound = av.AudioFrame.from_ndarray((tone * 20_000).astype(np.int16)[None], "s16", "mono")
            sound.sample_rate, sound.pts, sound.time_base = rate, start, Fraction(1, rate)
            packets += audio.encode(sound)
        packets += audio.encode(None)
        for packet in packets if step_s else ():
            if packet.stream.type == "audio":
                packet.pts = packet.dts = packet.dts - packet.dts % (step_s / packet.time_base)
        for packet in sorted(packets, key=lambda packet: packet.dts * packet.time_base):
            file.mux(packet)
    return path


def heard_s(path: Path) -> tuple[float, float]:
    """When the tone is heard, on the clock of a player."""
    with av.open(str(path)) as file:
        loud: list[float] = []
        start = 0 if path.name == OUT else file.start_time / av.time_base
        for frame in file.decode(audio=0):
            found = np.flatnonzero(
                np.abs(frame.to_ndarray().astype(float)).max(axis=0) > (0.2 if "flt" in frame.format.name else 6000)
            )
            loud += [frame.time - start + place / frame.sample_rate for place in found]
    return min(loud), max(loud)


def annotated(source: Path) -> Path:
    out = source.parent / OUT
    write_annotated_video(out, source, people_in(source, [{1: person(0.1, (1, 0.9))}]), NAMES)
    return out


def packets_of(path: Path) -> list[tuple[str, int, float]]:
    """Type, place in the file and time of each packet, in the order of the file."""
    with av.open(str(path)) as file:
        found = [
            (packet.stream.type, packet.pos, float(packet.dts * packet.time_base))
            for packet in file.demux()
            if packet.size
        ]
    return sorted(found, key=lambda item: item[1])


@pytest.mark.parametrize(
    ("name", "codec", "kept"),
    [
        ("v.mp4", "aac", "aac"),
        ("v.ts", "aac", "aac"),
        ("v.mkv", "pcm_s16le", "aac"),
        ("v.mkv", "libopus", "opus"),
        ("v.mkv", "flac", "flac"),
        ("v.mp4", "libmp3lame", "mp3float"),
        ("v.mkv", "ac3", "aac"),
        ("v.mov", "alac", "aac"),
        ("v.avi", "libmp3lame", "mp3float"),
        ("v.avi", "pcm_s16le", "aac"),
    ],
)
def test_the_tone_is_heard_when_it_is_heard_in_the_source(tmp_path: Path, name: str, codec: str, kept: str) -> None:
    kind = "mpeg4" if name.endswith("avi") else "libx264"
    source = write_with_tone(tmp_path / name, codec, pictures_s=constant(25, 75), picture_codec=kind)
    out = annotated(source)
    with av.open(str(out)) as file:
        assert [stream.type for stream in file.streams] == ["video", "audio"]
        assert file.streams.audio[0].codec_context.name == kept
    assert heard_s(out) == pytest.approx(heard_s(source), abs=0.03)
    assert heard_s(out) == pytest.approx(TONE_S, abs=0.06)


@pytest.mark.parametrize("codec", ["aac", "pcm_s16le"])
@pytest.mark.parametrize(
    ("first_picture_s", "sound_s"), [(Fraction(1, 2), (0, 3)), (Fraction(0), (0.8, 2)), (Fraction(5, 2), (0.6, 3))]
)
def test_pictures_and_sound_that_begin_apart(
    tmp_path: Path, codec: str, first_picture_s: Fraction, sound_s: tuple[float, float]
) -> None:
    pictures_s = constant(25, 25, first_picture_s)
    source = write_with_tone(tmp_path / "v.mkv", codec, pictures_s=pictures_s, sound_s=sound_s)
    begin = min(float(first_picture_s), sound_s[0])
    assert heard_s(annotated(source)) == pytest.approx([second - begin for second in TONE_S], abs=0.06)


def test_the_clock_of_joined_recordings_runs_on(tmp_path: Path) -> None:
    one = write_with_tone(tmp_path / "one.ts", "aac", pictures_s=constant(25, 75))
    joined = tmp_path / "joined.ts"
    joined.write_bytes(2 * one.read_bytes())
    assert heard_s(annotated(joined)) == pytest.approx([TONE_S[0], 3 + TONE_S[1]], abs=0.1)


def test_packets_of_one_time_follow_each_other(tmp_path: Path) -> None:
    """MP4 has no two, but some files have a coarse clock."""
    source = write_with_tone(tmp_path / "v.mkv", "aac", pictures_s=constant(25, 75), step_s=Fraction(1, 20))
    out = annotated(source)
    assert heard_s(out) == pytest.approx(TONE_S, abs=0.1)


def test_sound_and_pictures_lie_side_by_side_in_the_file(tmp_path: Path) -> None:
    """So that a player reads the file from its start to its end."""
    source = write_with_tone(tmp_path / "v.mkv", "pcm_s16le", pictures_s=constant(25, 250), sound_s=(0, 10))
    latest = {"video": 0.0, "audio": 0.0}
    for kind, _, time_s in packets_of(annotated(source)):
        latest[kind] = time_s
        assert abs(latest["video"] - latest["audio"]) < 2.5


def test_a_rate_that_aac_has_not_and_one_channel(tmp_path: Path) -> None:
    source = write_with_tone(tmp_path / "v.mkv", "pcm_s16le", pictures_s=constant(25, 75), rate=10_000, layout="mono")
    out = annotated(source)
    with av.open(str(out)) as file:
        found = file.streams.audio[0].codec_context
        assert (found.name, found.sample_rate, found.layout.name) == ("aac", 48_000, "mono")
    assert heard_s(out) == pytest.approx(TONE_S, abs=0.06)


def test_a_video_without_sound_has_none(tmp_path: Path) -> None:
    out = annotated(write_video(tmp_path / "v.mp4", constant(25, 25)))
    with av.open(str(out)) as file:
        assert [stream.type for stream in file.streams] == ["video"]
