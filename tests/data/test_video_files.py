"""Frames straight from video files, whatever their rate, start, codec and order of reading."""

import os
import random
import unicodedata
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from io import BytesIO
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from stal_data.clips import clip_frames
from stal_data.dataset import Dataset
from stal_data.errors import InputError, NotFoundError
from stal_data.media import video_reader
from stal_data.media.video import VideoFiles
from tests.data.videos import HEIGHT, WIDTH, constant, number_of, numbered_picture, resampled_by_ffmpeg, write_video

_JITTER = random.Random(0)
_IRREGULAR = [Fraction(0)]
while len(_IRREGULAR) < 60:
    _IRREGULAR.append(_IRREGULAR[-1] + Fraction(_JITTER.randint(5, 130), 1000))

VIDEOS = {
    "30.mp4": (constant(30, 90), {}),
    "25.mp4": (constant(25, 75), {}),
    "12.5.mp4": (constant(Fraction(25, 2), 40), {}),
    "ntsc.mp4": (constant(Fraction(30_000, 1001), 90), {}),
    "film.mkv": (constant(Fraction(24_000, 1001), 75), {}),
    "60.mkv": (constant(60, 120), {}),
    "5.mp4": (constant(5, 16), {}),
    "irregular.mkv": (_IRREGULAR, {}),
    "vp8.webm": (constant(30, 60), {"codec": "libvpx"}),
    "mjpeg.avi": (constant(30, 60), {"codec": "mjpeg", "pix_fmt": "yuvj420p"}),
}


def _numbers(media: VideoFiles, frames: list[int] | range) -> list[int]:
    return [number_of(frame) for frame in media.read("v", frames)]


@pytest.mark.parametrize("name", VIDEOS)
def test_the_time_line_shows_the_pictures_that_ffmpeg_would_extract(tmp_path: Path, name: str) -> None:
    times, options = VIDEOS[name]
    media = VideoFiles({"v": write_video(tmp_path / name, times, **options)})
    info = media.info("v")
    expected = resampled_by_ffmpeg(media.files["v"])
    assert info.num_frames == len(expected)
    assert _numbers(media, range(1, info.num_frames + 1)) == expected
    # The same in any order: backwards, jumping over key pictures, with repeats.
    order = random.Random(1).choices(range(1, info.num_frames + 1), k=25)
    assert [_numbers(media, [frame])[0] for frame in order] == [expected[frame - 1] for frame in order]


@pytest.mark.parametrize(
    ("rate", "count", "num_frames"),
    [(Fraction(30), 90, 75), (Fraction(25, 2), 40, 80), (Fraction(30_000, 1001), 90, 75)],
)
def test_rate_size_and_length_come_from_the_file(tmp_path: Path, rate: Fraction, count: int, num_frames: int) -> None:
    info = VideoFiles({"v": write_video(tmp_path / "v.mp4", constant(rate, count))}).info("v")
    assert (info.width, info.height, info.rate, info.num_frames) == (WIDTH, HEIGHT, rate, num_frames)
    assert info.duration_s == pytest.approx(count / rate, abs=1 / 30)
    assert info.start_s == 0


@pytest.mark.parametrize("name", ["late.mp4", "late.ts"])
def test_a_stream_whose_times_start_late_plays_from_its_first_picture(tmp_path: Path, name: str) -> None:
    media = VideoFiles({"v": write_video(tmp_path / name, constant(25, 60, start_s=10))})
    info = media.info("v")
    assert (info.start_s, info.num_frames) == (0, 60)
    assert _numbers(media, range(1, 61)) == list(range(60))
    assert _numbers(media, [50, 10]) == [49, 9]


def test_the_start_on_the_key_frames_clock_can_be_set(tmp_path: Path) -> None:
    path = write_video(tmp_path / "v.mp4", constant(25, 60))
    assert VideoFiles({"v": path}, start_s=900).info("v").start_s == 900


def test_a_picture_stream_that_starts_after_the_sound_keeps_its_place(tmp_path: Path) -> None:
    path = tmp_path / "v.mkv"
    with av.open(str(path), "w") as container:
        pictures = container.add_stream("mjpeg", rate=25)
        pictures.width, pictures.height, pictures.pix_fmt = WIDTH, HEIGHT, "yuvj420p"
        sound = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 16_000), np.int16), format="s16", layout="mono")
        silence.sample_rate, silence.pts = 8000, 0
        container.mux(sound.encode(silence))
        for number in range(25):
            frame = av.VideoFrame.from_ndarray(numbered_picture(number), format="rgb24")
            frame.pts, frame.time_base = number + 25, Fraction(1, 25)
            container.mux(pictures.encode(frame))
        container.mux(pictures.encode(None))
    media = VideoFiles({"v": path})
    assert media.info("v").start_s == pytest.approx(1.0)
    assert _numbers(media, [1, 25]) == [0, 24]


def test_a_video_filmed_upright_is_shown_upright(tmp_path: Path) -> None:
    path = write_video(tmp_path / "v.mp4", constant(25, 5))
    lying = VideoFiles({"v": path}).read("v", [4])[0]
    content = bytearray(path.read_bytes())
    matrix = content.index(b"tkhd") + 44
    quarter_turn_clockwise = [0, 1 << 16, 0, 0xFFFF0000, 0, 0, HEIGHT << 16, 0, 1 << 30]
    content[matrix : matrix + 36] = b"".join(value.to_bytes(4, "big") for value in quarter_turn_clockwise)
    path.write_bytes(content)
    media = VideoFiles({"v": path})
    assert (media.info("v").width, media.info("v").height) == (HEIGHT, WIDTH)
    np.testing.assert_array_equal(media.read("v", [4])[0], np.rot90(lying, -1))


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> Counter[int]:
    """Counts how often each picture, by its time, is decoded and kept."""
    counter: Counter[int] = Counter()
    keep = video_reader.VideoReader._keep

    def counting_keep(reader: video_reader.VideoReader, frame: av.VideoFrame) -> None:
        counter[frame.pts] += 1
        keep(reader, frame)

    monkeypatch.setattr(video_reader.VideoReader, "_keep", counting_keep)
    return counter


def test_overlapping_windows_decode_each_picture_once(tmp_path: Path, decoded: Counter[int]) -> None:
    media = VideoFiles({"v": write_video(tmp_path / "v.mp4", constant(30, 300), gop=40)})
    for centre in range(33, 219, 25):
        media.read("v", clip_frames((centre - 32, centre + 32)))
    assert max(decoded.values()) == 1
    assert len(decoded) > 250


def test_a_far_picture_is_reached_through_the_key_picture_before_it(tmp_path: Path, decoded: Counter[int]) -> None:
    media = VideoFiles({"v": write_video(tmp_path / "v.mp4", constant(25, 300), gop=20)})
    assert _numbers(media, [1]) == [0]
    assert _numbers(media, [290]) == [289]
    assert _numbers(media, [100]) == [99]
    assert decoded.total() <= 1 + 20 + 20


def test_what_no_longer_fits_in_memory_is_decoded_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(video_reader, "KEPT_BYTES", 40_000)  # seven pictures
    media = VideoFiles({"v": write_video(tmp_path / "v.mp4", constant(25, 100), gop=30)})
    for start in (1, 26, 11):
        assert _numbers(media, range(start, start + 64)) == list(range(start - 1, start + 63))


def test_many_threads_read_many_videos(tmp_path: Path) -> None:
    # More videos than are kept open, and several threads on each.
    names = [f"v{number}" for number in range(6)]
    media = VideoFiles({name: write_video(tmp_path / f"{name}.mp4", constant(25, 60)) for name in names})
    jobs = [(name, start) for start in (31, 1, 16) for name in names] * 2

    def read(job: tuple[str, int]) -> list[int]:
        name, start = job
        return [number_of(frame) for frame in media.read(name, range(start, start + 30, 2))]

    with ThreadPoolExecutor(8) as pool:
        for (_, start), numbers in zip(jobs, pool.map(read, jobs), strict=True):
            assert numbers == list(range(start - 1, start + 29, 2))


def test_an_encoded_frame_is_a_png_of_the_frame(tmp_path: Path) -> None:
    media = VideoFiles({"v": write_video(tmp_path / "v.mp4", constant(25, 20))})
    with Image.open(BytesIO(media.encoded("v", 7))) as image:
        assert image.format == "PNG"
        np.testing.assert_array_equal(np.asarray(image), media.read("v", [7])[0])


def test_the_digest_follows_the_file_and_the_frames(tmp_path: Path) -> None:
    path = write_video(tmp_path / "v.mp4", constant(25, 20))
    before = VideoFiles({"v": path}).digest("v", [1, 2])
    assert before == VideoFiles({"v": path}).digest("v", [1, 2]) != VideoFiles({"v": path}).digest("v", [1, 3])
    write_video(path, constant(25, 21))
    assert VideoFiles({"v": path}).digest("v", [1, 2]) != before


def test_frames_outside_the_video_are_refused(tmp_path: Path) -> None:
    media = VideoFiles({"v": write_video(tmp_path / "v.mp4", constant(25, 20))})
    for frames in ([0, 1], [20, 21]):
        with pytest.raises(InputError, match=r"of video 'v' were asked for, but .*v.mp4 has frames 1 to 20"):
            media.read("v", frames)


def test_a_file_that_is_no_video_is_named(tmp_path: Path) -> None:
    path = tmp_path / "v.mp4"
    path.write_bytes(random.Random(0).randbytes(5000))
    with pytest.raises(InputError, match=r"v.mp4 does not decode as a video"):
        VideoFiles({"v": path}).info("v")
    good = write_video(tmp_path / "good.mp4", constant(25, 50)).read_bytes()
    path.write_bytes(good[: len(good) // 2])  # as after an interrupted copy: the index at the end is missing
    with pytest.raises(InputError, match=r"v.mp4 does not decode as a video"):
        VideoFiles({"v": path}).info("v")
    with pytest.raises(NotFoundError, match=r"none.mp4 does not exist"):
        VideoFiles({"v": tmp_path / "none.mp4"}).info("v")


def test_damage_in_the_middle_is_named_and_leaves_the_rest_readable(tmp_path: Path) -> None:
    path = write_video(tmp_path / "v.mp4", constant(25, 300))
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 400] = bytes(400)
    path.write_bytes(content)
    media = VideoFiles({"v": path})
    with pytest.raises(InputError, match=r"v.mp4 does not decode as a video .*near \d+\.\d\d s"):
        media.read("v", range(1, 301))
    assert _numbers(media, [1, 20, 300]) == [0, 19, 299]

    # Which pictures are refused, and the bits of the others, hang neither on the order of reading nor on what was read.
    def outcomes(frames: Sequence[int]) -> dict[int, bytes | None]:
        media, found = VideoFiles({"v": path}), {}
        for frame in frames:
            try:
                found[frame] = media.read("v", [frame]).tobytes()
            except InputError:
                found[frame] = None
        return found

    forwards = outcomes(range(1, 301))
    assert 0 < sum(picture is None for picture in forwards.values()) < 60
    assert outcomes(range(300, 0, -1)) == forwards
    assert outcomes(np.random.default_rng(0).permutation(range(1, 301)).tolist()) == forwards


def test_a_file_with_sound_only_holds_no_video(tmp_path: Path) -> None:
    path = tmp_path / "v.mkv"
    with av.open(str(path), "w") as container:
        sound = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        silence.sample_rate, silence.pts = 8000, 0
        container.mux(sound.encode(silence))
    with pytest.raises(InputError, match=r"v.mkv holds no video stream"):
        VideoFiles({"v": path}).info("v")


def test_a_playlist_cannot_reach_other_files(tmp_path: Path) -> None:
    write_video(tmp_path / "other.ts", constant(25, 20))
    path = tmp_path / "v.mp4"
    path.write_text("#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:9/x.ts\n#EXT-X-ENDLIST\n")
    with pytest.raises(InputError, match=r"v.mp4 (does not decode as a video|holds no video stream)"):
        VideoFiles({"v": path}).info("v")


def test_a_folder_of_videos_names_them_by_their_stems(tmp_path: Path) -> None:
    write_video(tmp_path / "b.mp4", constant(25, 5))
    write_video(tmp_path / "a.MKV", constant(25, 5))
    (tmp_path / "notes.txt").write_text("no video")
    media = VideoFiles.in_folder(tmp_path)
    assert media.videos() == ("a", "b")
    assert "pyav-" in media.decoder
    assert "libavcodec-" in media.decoder
    with pytest.raises(NotFoundError, match=r"There is no file of video 'bb'. Did you mean 'b'"):
        media.info("bb")
    write_video(tmp_path / "b.avi", constant(25, 5), codec="mjpeg", pix_fmt="yuvj420p")
    with pytest.raises(InputError, match=r"would both be video 'b'"):
        VideoFiles.in_folder(tmp_path)


@pytest.mark.parametrize("on_disk", ["NFC", "NFD"])
@pytest.mark.parametrize("in_list", ["NFC", "NFD"])
def test_a_name_is_the_same_in_every_unicode_form(tmp_path: Path, on_disk: str, in_list: str) -> None:
    video, listed = unicodedata.normalize(on_disk, "Café"), unicodedata.normalize(in_list, "Café")
    write_video(tmp_path / f"{video}.mp4", constant(25, 50))
    (tmp_path / "labels.pbtxt").write_text('label { name: "stand" label_id: 1 }')
    (tmp_path / "train.csv").write_text(f"{listed},1,0.1,0.1,0.4,0.9,1,0\n", encoding="utf-8")
    (tmp_path / "dataset.yaml").write_text(
        "name: own\nformat: ava\nlabel_map: labels.pbtxt\nmedia: {kind: video, root: .}\n"
        f"splits: {{train: {{annotations: train.csv}}, all: {{videos: '{listed}*'}}}}\n",
        encoding="utf-8",
    )
    dataset = Dataset.open(tmp_path)
    for name in ("train", "all"):
        assert {item.key.video for item in dataset.split(name).key_frames} == {"Café"}
    assert dataset.media.info("Café").num_frames == 50


def test_what_is_no_video_is_named_with_the_reason(tmp_path: Path) -> None:
    write_video(tmp_path / "a.vob", constant(25, 5), codec="mpeg2video", rate=25)
    (tmp_path / "x.mp4").mkdir()
    (tmp_path / "gone.mp4").symlink_to(tmp_path / "nowhere.mp4")
    (tmp_path / "notes.txt").write_text("no video")
    (tmp_path / ".hidden").write_text("")
    os.mkfifo(tmp_path / "pipe.mp4")
    media = VideoFiles.in_folder(tmp_path)
    assert media.videos() == ("a",)
    assert {path.name: reason for path, reason in media.left_out()} == {
        "gone.mp4": "a broken link",
        "notes.txt": "no video by its ending",
        "pipe.mp4": "no regular file",
        "x.mp4": "a folder, which is not looked into",
    }
    with pytest.raises(NotFoundError, match=r"There is no file of video 'gone': .*gone.mp4 is a broken link"):
        media.info("gone")
