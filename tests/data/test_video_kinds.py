"""Every kind of video file: the pictures that ffmpeg shows, in any order, number of threads and size of batch."""

import random
import shutil
import subprocess
from collections.abc import Callable
from fractions import Fraction
from functools import cache
from pathlib import Path

import av
import numpy as np
import pytest
from av.container import InputContainer
from av.video.stream import VideoStream
from numpy.typing import NDArray

from stal_data.errors import InputError
from stal_data.media import video_index, video_reader
from stal_data.media.video import VideoFiles
from stal_data.media.video_packets import open_video
from tests.data.video_kinds import COUNT, KINDS, SHOWN_FROM, with_matrix
from tests.data.videos import constant, number_of, resampled_by_ffmpeg, write_video

Make = Callable[[str], Path]


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Make:
    folder = tmp_path_factory.mktemp("kinds")
    return cache(lambda name: KINDS[name](folder / name))


def _all(path: Path) -> NDArray[np.uint8]:
    media = VideoFiles({"v": path})
    return media.read("v", range(1, media.info("v").num_frames + 1))


def _by_ffmpeg(path: Path, like: NDArray[np.uint8]) -> NDArray[np.uint8]:
    words = ["ffmpeg", "-v", "error", "-nostdin", "-i", str(path), "-vf", "fps=25", "-f", "rawvideo"]
    done = subprocess.run([*words, "-pix_fmt", "rgb24", "-"], capture_output=True, check=False)
    return np.frombuffer(done.stdout, np.uint8).reshape(-1, *like.shape[1:])


needs_ffmpeg = pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="ffmpeg is not installed")


@pytest.mark.parametrize("name", KINDS)
def test_every_picture_is_shown_once_and_in_its_place(make: Make, name: str) -> None:
    path, first = make(name), SHOWN_FROM.get(name, 0)
    pictures_THW3 = _all(path)
    assert [number_of(picture) for picture in pictures_THW3] == list(range(first, first + COUNT))
    # The same bits in any order: with one reader, and with one that never read anything else.
    shuffled = random.Random(2).sample(range(COUNT), COUNT)
    media = VideoFiles({"v": path})
    for index in shuffled:
        np.testing.assert_array_equal(media.read("v", [index + 1])[0], pictures_THW3[index])
    for index in (COUNT - 1, *shuffled[:3]):
        np.testing.assert_array_equal(VideoFiles({"v": path}).read("v", [index + 1])[0], pictures_THW3[index])
    for begin in range(0, COUNT, 7):
        some = VideoFiles({"v": path}).read("v", range(begin + 1, min(begin + 7, COUNT) + 1))
        np.testing.assert_array_equal(some, pictures_THW3[begin : begin + 7])


@pytest.mark.parametrize("name", ["h264.mp4", "h264.avi", "packed.avi", "restarted.ts", "hevc.ts", "open-gop.ts"])
def test_the_number_of_decoding_threads_changes_no_bit(make: Make, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make(name)
    open_video, found = video_reader.open_video, []
    for threads in (1, 2, 5):

        def opened(path: Path, threads: int = threads) -> tuple[InputContainer, VideoStream]:
            container, stream = open_video(path)
            stream.codec_context.thread_count = threads
            return container, stream

        monkeypatch.setattr(video_reader, "open_video", opened)
        media = VideoFiles({"v": path})
        found.append([media.read("v", [frame])[0] for frame in (40, 3, 22, 21, 30)])
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[0], found[2])


# ffmpeg 5.1 loses pictures where such a file pauses, and shows H.264 in MXF and in joined streams late or incompletely.
@needs_ffmpeg
@pytest.mark.parametrize("name", sorted(KINDS.keys() - {"pause.ts", "h264.mxf", "restarted-without-delay.ts"}))
def test_ffmpeg_shows_the_same(make: Make, name: str) -> None:
    ours_THW3 = _all(make(name))
    theirs_THW3 = _by_ffmpeg(make(name), ours_THW3)
    assert [number_of(picture) for picture in theirs_THW3] == [number_of(picture) for picture in ours_THW3]
    assert np.abs(theirs_THW3.astype(int) - ours_THW3).mean() < 2


@needs_ffmpeg
@pytest.mark.parametrize(
    ("ending", "rate"),
    [
        *(("avi", Fraction(rate)) for rate in ("30", "30000/1001", "24000/1001", "60", "7")),
        *((ending, Fraction(30_000, 1001)) for ending in ("mp4", "mkv", "ts")),
    ],
)
def test_ffmpeg_maps_other_rates_alike(tmp_path: Path, rate: Fraction, ending: str) -> None:
    path = write_video(tmp_path / f"v.{ending}", constant(rate, 60), rate=rate)
    ours_THW3 = _all(path)
    assert [number_of(picture) for picture in _by_ffmpeg(path, ours_THW3)] == [number_of(p) for p in ours_THW3]


MATRICES = {
    "as stored": ((1, 0, 0, 1), lambda stored: stored),
    "turned right": ((0, 1, -1, 0), lambda stored: np.rot90(stored, -1)),
    "upside down": ((-1, 0, 0, -1), lambda stored: np.rot90(stored, 2)),
    "turned left": ((0, -1, 1, 0), np.rot90),
    "mirrored": ((-1, 0, 0, 1), lambda stored: stored[:, ::-1]),
    "flipped": ((1, 0, 0, -1), lambda stored: stored[::-1]),
    "transposed": ((0, 1, 1, 0), lambda stored: stored.swapaxes(0, 1)),
    "transposed the other way": ((0, -1, -1, 0), lambda stored: np.rot90(stored, 2).swapaxes(0, 1)),
}


@pytest.mark.parametrize("name", MATRICES)
def test_display_matrices_are_followed(tmp_path: Path, name: str) -> None:
    matrix, shown = MATRICES[name]
    stored_HW3 = _all(with_matrix(tmp_path / "stored.mp4", (1, 0, 0, 1)))[3]
    pictures_THW3 = _all(path := with_matrix(tmp_path / "v.mp4", matrix))
    np.testing.assert_array_equal(pictures_THW3[3], shown(stored_HW3))
    info = VideoFiles({"v": path}).info("v")
    assert (info.height, info.width) == pictures_THW3[3].shape[:2]
    if shutil.which("ffmpeg") is not None:
        assert np.abs(_by_ffmpeg(path, pictures_THW3)[3].astype(int) - pictures_THW3[3]).mean() < 2


def test_a_turn_by_another_angle_is_refused(tmp_path: Path) -> None:
    path = with_matrix(tmp_path / "v.mp4", (1, 1, -1, 1))
    with pytest.raises(InputError, match=r"v.mp4 says that it is to be shown turned by an angle"):
        VideoFiles({"v": path}).info("v")


@pytest.mark.parametrize("name", ["restarted.ts", "later-by-95-s.ts", "pause.ts", "restarted.mpg"])
def test_a_clock_that_jumps_is_reported(make: Make, name: str) -> None:
    (note,) = VideoFiles({"v": make(name)}).info("v").notes
    assert "its clock jumps by" in note
    assert f"at {(23 if name == 'pause.ts' else 25) / 25:.2f} s" in note


def test_a_picture_that_stays_for_long_is_reported(tmp_path: Path) -> None:
    times = [Fraction(number, 25) + (95 if number >= 20 else 0) for number in range(COUNT)]
    media = VideoFiles({"v": write_video(tmp_path / "v.mkv", times, rate=25)})
    info = media.info("v")
    assert info.num_frames == 95 * 25 + COUNT  # as ffmpeg has it
    assert [number_of(picture) for picture in media.read("v", [20, 21, 2395, 2396, 2397])] == [19, 19, 19, 20, 21]
    assert info.notes == ("it has no other picture from 0.76 s to 95.80 s, so key frames in between are all alike",)


def test_a_file_that_changes_while_it_is_read_is_named(tmp_path: Path) -> None:
    path = write_video(tmp_path / "v.mkv", constant(25, 100), rate=25)
    media = VideoFiles({"v": path})
    media.info("v")
    write_video(path, constant(25, 90), rate=25, gop=5)
    with pytest.raises(InputError, match=r"v.mkv does not decode as a video \(the file changed while it was read"):
        media.read("v", range(1, 101))


@pytest.mark.parametrize("ending", ["mp4", "mov", "ts", "mkv", "flv"])
def test_times_count_where_the_header_promises_an_order_that_no_picture_makes_use_of(
    tmp_path: Path, ending: str
) -> None:
    options = {"preset": "medium", "x264-params": "bframes=3:b-adapt=1:b-bias=-100"}
    path = write_video(tmp_path / f"v.{ending}", constant(30, 60), options=options)
    plain = write_video(tmp_path / "plain.mp4", constant(30, 60), options={"bf": "0"})
    assert VideoFiles({"v": path}).info("v").start_s == 0
    assert [number_of(picture) for picture in _all(path)] == resampled_by_ffmpeg(plain)


@pytest.mark.parametrize(("ending", "damaged"), [("h264", 3), ("avi", 4)])
def test_a_damaged_end_is_the_same_with_any_number_of_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str, damaged: int
) -> None:
    path = write_video(tmp_path / f"v.{ending}", constant(25, COUNT), rate=25)
    with av.open(str(path)) as container:
        packet = [bytes(packet) for packet in container.demux(video=0) if packet.size][-damaged]
    content = bytearray(path.read_bytes())
    begin, length = content.rindex(packet) + 5, len(packet) - 16
    content[begin : begin + length] = random.Random(damaged).randbytes(length)
    path.write_bytes(content)

    def outcomes(threads: int) -> list[bytes | str]:
        def opened(path: Path) -> tuple[InputContainer, VideoStream]:
            container, stream = open_video(path)
            stream.codec_context.thread_count = threads
            return container, stream

        monkeypatch.setattr(video_index, "open_video", opened)
        monkeypatch.setattr(video_reader, "open_video", opened)
        media = VideoFiles({"v": path})
        found: list[bytes | str] = []
        for frame in range(1, media.info("v").num_frames + 1):
            try:
                found.append(media.read("v", [frame]).tobytes())
            except InputError as error:
                found.append(str(error))
        return found

    expected = outcomes(1)
    for threads in (2, 3, 4, 5, 8):
        assert outcomes(threads) == expected
