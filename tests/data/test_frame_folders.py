"""Frames from image folders: numbering, rates, missing and damaged files."""

import unicodedata
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stal_data.errors import InputError, NotFoundError
from stal_data.media.frames import FrameFolders
from tests.data.videos import HEIGHT, WIDTH, number_of, numbered_picture


def _folder(
    root: Path, *, numbers: range = range(1, 76), pattern: str = "{video}/{video}_{frame:06d}.png", video: str = "v"
) -> Path:
    for number in numbers:
        path = root / pattern.format(video=video, frame=number)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(numbered_picture(number)).save(path)
    return root


def test_frames_are_read_by_number_in_the_given_order(tmp_path: Path) -> None:
    media = FrameFolders(_folder(tmp_path))
    info = media.info("v")
    assert (info.width, info.height, info.num_frames, info.duration_s, info.start_s) == (WIDTH, HEIGHT, 75, 3.0, 0.0)
    clip_THW3 = media.read("v", [75, 1, 1, 30])
    assert clip_THW3.shape == (4, HEIGHT, WIDTH, 3)
    assert [number_of(frame) for frame in clip_THW3] == [75, 1, 1, 30]
    assert media.videos() == ("v",)
    assert media.decoder.startswith("pillow-")


def test_encoded_frames_are_the_files_themselves(tmp_path: Path) -> None:
    media = FrameFolders(_folder(tmp_path))
    assert media.encoded("v", 3) == (tmp_path / "v" / "v_000003.png").read_bytes()


def test_other_names_rates_and_first_numbers_are_a_matter_of_settings(tmp_path: Path) -> None:
    pattern = "{video}/img/{frame}.jpg"
    root = _folder(tmp_path, numbers=range(0, 60), pattern=pattern)
    media = FrameFolders(root, pattern=pattern, fps=Fraction(30), first_frame=0, start_s=900)
    info = media.info("v")
    assert (info.rate, info.num_frames, info.start_s, info.duration_s) == (30, 50, 900, 2.0)
    # 30 fps on the 25 fps line: ffmpeg's rule, see test_clips.
    assert [number_of(frame) for frame in media.read("v", [1, 2, 3, 4, 50])] == [0, 1, 2, 4, 59]


def test_a_frame_missing_in_the_middle_is_named(tmp_path: Path) -> None:
    media = FrameFolders(_folder(tmp_path))
    gone = tmp_path / "v" / "v_000040.png"
    gone.unlink()
    assert media.missing("v", [39, 40, 41, 40]) == [gone]
    for use in (lambda: media.read("v", [39, 40]), lambda: media.encoded("v", 40), lambda: media.digest("v", [40])):
        with pytest.raises(InputError, match=r"Frame 40 of video 'v' is missing: .*v_000040.png does not exist"):
            use()
    with pytest.raises(InputError, match=r"Frame 76 .*the last is number 75"):
        media.read("v", [76])


@pytest.mark.parametrize("content", [b"", b"not an image", None])
def test_a_damaged_image_is_named(tmp_path: Path, content: bytes | None) -> None:
    media = FrameFolders(_folder(tmp_path))
    path = tmp_path / "v" / "v_000040.png"
    path.write_bytes(path.read_bytes()[:-30] if content is None else content)
    with pytest.raises(InputError, match=r"v_000040.png does not decode as an image"):
        media.read("v", [40])


def test_frames_of_two_sizes_in_a_video_are_refused(tmp_path: Path) -> None:
    media = FrameFolders(_folder(tmp_path))
    Image.new("RGB", (10, 10)).save(tmp_path / "v" / "v_000040.png")
    with pytest.raises(InputError, match=r"v_000040.png is 10x10 pixels, but video 'v' is 80x48"):
        media.read("v", [39, 40])


def test_grey_palette_and_transparent_images_become_rgb(tmp_path: Path) -> None:
    _folder(tmp_path, numbers=range(1, 4))
    for number, mode in ((1, "L"), (2, "P"), (3, "RGBA")):
        path = tmp_path / "v" / f"v_{number:06d}.png"
        with Image.open(path) as image:
            image.convert(mode).save(path)
    assert [number_of(frame) for frame in FrameFolders(tmp_path).read("v", [1, 2, 3])] == [1, 2, 3]


def test_frames_are_turned_as_exif_says(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the stored left edge is seen at the top
    for number in (1, 2):
        path = tmp_path / "v" / f"v_{number:06d}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(np.rot90(numbered_picture(number))).save(path, exif=exif)
    media = FrameFolders(tmp_path)
    assert (media.info("v").width, media.info("v").height) == (WIDTH, HEIGHT)
    np.testing.assert_array_equal(media.read("v", [2])[0], numbered_picture(2))


def test_a_folder_is_found_in_every_unicode_form(tmp_path: Path) -> None:
    composed, decomposed = (unicodedata.normalize(form, "Café") for form in ("NFC", "NFD"))
    media = FrameFolders(_folder(tmp_path, numbers=range(1, 6), video=decomposed))
    assert media.videos() == (composed,)
    assert number_of(media.read(composed, [5])[0]) == 5
    assert media.missing(composed, [5, 6]) == [tmp_path / decomposed / f"{decomposed}_000006.png"]


def test_two_folders_whose_names_look_the_same_are_named(tmp_path: Path) -> None:
    for form in ("NFC", "NFD"):
        video = unicodedata.normalize(form, "Café")
        _folder(tmp_path, numbers=range(1, 6), video=video)
    media = FrameFolders(tmp_path)
    with pytest.raises(InputError, match=r"two folders that would both be video 'Café', .*'Cafe.u0301'.*rename one"):
        media.videos()
    with pytest.raises(InputError, match="two folders that would both be video"):
        media.info("Café")


def test_other_formats_are_refused_with_a_way_out(tmp_path: Path) -> None:
    media = FrameFolders(
        _folder(tmp_path, numbers=range(1, 4), pattern="{video}/{frame}.tif"), pattern="{video}/{frame}.tif"
    )
    with pytest.raises(InputError, match=r"1.tif does not decode as an image \(it is not a JPEG, .*as PNG or JPEG"):
        media.read("v", [1])


def test_the_digest_follows_the_bytes_and_the_frames(tmp_path: Path) -> None:
    media = FrameFolders(_folder(tmp_path))
    before = media.digest("v", [1, 2, 3])
    assert before == FrameFolders(tmp_path).digest("v", [1, 2, 3])
    assert 0 <= before < 2**64
    assert len({before, media.digest("v", [1, 2]), media.digest("v", [3, 2, 1])}) == 3
    Image.fromarray(numbered_picture(2)).save(tmp_path / "v" / "v_000002.png", compress_level=0)
    assert media.digest("v", [1, 2, 3]) != before
    assert media.digest("v", [1, 3]) == FrameFolders(tmp_path).digest("v", [1, 3])


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"frame folder .*none does not exist: check media.root"):
        FrameFolders(tmp_path / "none")
    media = FrameFolders(_folder(tmp_path, video="street"))
    with pytest.raises(NotFoundError, match=r"Video 'stret' has no frames: .* Did you mean 'street'"):
        media.info("stret")
    with pytest.raises(InputError, match="a video id must be printable"):
        media.info("../street")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"holds no file like empty/empty_000001.png: check media.pattern"):
        media.info("empty")
    with pytest.raises(InputError, match=r"start at number 1, but media.first_frame is 5"):
        FrameFolders(tmp_path, first_frame=5).info("street")


@pytest.mark.parametrize(
    "pattern",
    [
        "{video}/{frame:999999999999d}.png",
        "{video}/{frame.real}.png",
        "{video}/{video:99}_{frame}.png",
        "{video}/{frame!s}",
        "{frame:06d}.png",
        "{video}/x.png",
        "{video}/{frame}_{frame}.png",
        "{video}/{n}.png",
        "../{video}/{frame}.png",
    ],
)
def test_patterns_that_cannot_work_are_refused(tmp_path: Path, pattern: str) -> None:
    with pytest.raises(InputError, match=r"media.pattern is .* write something like"):
        FrameFolders(tmp_path, pattern=pattern)


def test_one_size_of_clip_whatever_repeats(tmp_path: Path) -> None:
    media = FrameFolders(_folder(tmp_path, numbers=range(1, 6)))
    frames = [1, 2, 3, 4, 5] * 6 + [1, 2]
    clip_THW3 = media.read("v", frames)
    np.testing.assert_array_equal(clip_THW3, np.stack([numbered_picture(number) for number in frames]))
