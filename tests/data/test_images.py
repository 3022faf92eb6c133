"""Which image bytes are accepted, and what becomes of them."""

import contextlib
import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin

from stal_data.errors import InputError
from stal_data.media.image_work import MAX_CHUNKS, MAX_SCANS, MAX_SEGMENTS
from stal_data.media.images import (
    FORMATS,
    SENT_PIXELS,
    decode_image,
    image_file_to_send,
    picture_to_send,
    read_image_file,
    shown_alike,
)


def _picture(width: int = 160, height: int = 90) -> NDArray[np.uint8]:
    """Large structures in colour, no side like another."""
    coarse = Image.fromarray(np.random.default_rng(1).integers(0, 256, (5, 8, 3), dtype=np.uint8))
    return np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC))


def _encoded(image: NDArray[np.uint8] | Image.Image, kind: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(file, kind, **options)
    return file.getvalue()


# 8 x 8 pixels; the header and palette are those of any BMP, 1 at byte 30 says what follows.
RUN_LENGTHS = (
    struct.pack("<2sIHHIIiiHHIIiiII", b"BM", 1094, 0, 0, 1078, 40, 8, 8, 1, 8, 1, 16, 0, 0, 256, 0)
    + b"".join(bytes((value, 0, value, 0)) for value in range(256))
    + b"\x08\x01\x00\x00" * 8
)


@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_gives_the_picture_back(kind: str) -> None:
    image_HW3 = _picture()
    found_HW3 = decode_image(_encoded(image_HW3, kind), "a")
    if kind in ("PNG", "BMP"):
        np.testing.assert_array_equal(found_HW3, image_HW3)
    assert np.abs(found_HW3.astype(int) - image_HW3).mean() < 8


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "is empty"),
        (b"hello", "is not a JPEG, PNG, WebP or BMP image"),
        (_encoded(_picture(), "GIF"), "is not a JPEG, PNG, WebP or BMP image"),
        (_encoded(Image.new("F", (9, 9)), "TIFF"), "is not a JPEG, PNG, WebP or BMP image"),
        (_encoded(_picture())[:-200], "cannot be decoded"),
    ],
)
def test_bad_images_are_named(data: bytes, text: str) -> None:
    with pytest.raises(InputError, match=f"Frame 'v,0007' {text}"):
        decode_image(data, "Frame 'v,0007'")


def test_limits_hold_before_decoding() -> None:
    data = _encoded(_picture(200, 100))
    with pytest.raises(InputError, match="200x100; at most 19999 pixels"):
        decode_image(data[:60], "a", max_pixels=19999)  # only the head is there
    with pytest.raises(InputError, match="bytes; at most 10"):
        decode_image(data, "a", max_bytes=10)


def with_scans(scans: int) -> bytes:
    """A progressive JPEG whose last scan is there again and again."""
    data = _encoded(_picture(), "JPEG", progressive=True)
    last, end = data.rindex(b"\xff\xda"), data.rindex(b"\xff\xd9")
    return data[:end] + data[last:end] * (scans - data.count(b"\xff\xda")) + data[end:]


def with_segments(segment: bytes, count: int) -> bytes:
    data = _encoded(_picture(), "JPEG")
    return data[:2] + segment * count + data[2:]


def with_chunks(kind: bytes, content: bytes, count: int) -> bytes:
    data = _encoded(_picture())
    end = data.index(b"IEND") - 4
    chunk = struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
    return data[:33] + chunk * count + data[33:end] + chunk * count + data[end:]


COMMENT = b"\xff\xfe\x00\x03a"
PROFILE = b"x\0\0" + zlib.compress(bytes(1 << 19))


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (with_scans(MAX_SCANS + 1), f"has more than {MAX_SCANS} scans"),
        (with_scans(5000), f"has more than {MAX_SCANS} scans"),
        (with_segments(COMMENT, MAX_SEGMENTS), f"has more than {MAX_SEGMENTS} segments"),
        (with_segments(b"\xff\xe1\x00\x09Exif\0\0x", 100_000), f"has more than {MAX_SEGMENTS} segments"),
        (_encoded(_picture(), "JPEG").replace(b"\xff\xc0", b"\xff\xc9"), "is a JPEG with arithmetic coding"),
        (with_chunks(b"iCCP", PROFILE, 1), "has more than one colour profile"),
        (with_chunks(b"IDAT", b"", MAX_CHUNKS), f"has more than {MAX_CHUNKS} chunks"),
        (with_chunks(b"zTXt", PROFILE, 200), "cannot be decoded: Too much memory used in text chunks"),
        (RUN_LENGTHS, "is a BMP of run lengths"),
    ],
    ids=["scans", "many scans", "comments", "Exif", "arithmetic", "iCCP", "IDAT", "zTXt", "BMP"],
)
def test_images_that_cost_more_than_their_pixels_are_refused(data: bytes, text: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"Frame 'v,0007' {text}"):
        decode_image(data, "Frame 'v,0007'")
    (tmp_path / "a").write_bytes(data)
    assert image_file_to_send(tmp_path / "a") == data
    assert not shown_alike(data)


def test_usual_images_are_within_the_bounds() -> None:
    for data in (
        with_scans(MAX_SCANS),
        with_segments(COMMENT, MAX_SEGMENTS // 2),
        _encoded(_picture(), "JPEG", progressive=True, restart_marker_blocks=1),
        _encoded(_picture(), "JPEG", progressive=True) + b"\xff\xda" * 1000,  # a film, as phones append it
    ):
        assert decode_image(data, "a").shape == _picture().shape
    profile = _encoded(_picture(), icc_profile=bytes(1 << 19))
    np.testing.assert_array_equal(decode_image(profile, "a"), _picture())


def test_of_an_animation_the_first_picture_is_read() -> None:
    pictures = [Image.fromarray(np.full((16, 24, 3), value, np.uint8)) for value in range(0, 250, 5)]
    for kind, options in (("PNG", {}), ("WEBP", {"lossless": True})):
        data = _encoded(pictures[0], kind, save_all=True, append_images=pictures[1:], **options)
        assert not decode_image(data, "a").any()


@given(st.binary(max_size=64), st.integers(0, 400), st.sampled_from(FORMATS))
def test_damaged_images_raise_only_input_errors(junk: bytes, position: int, kind: str) -> None:
    data = bytearray(_encoded(_picture(24, 16), kind))
    data[position : position + len(junk)] = junk
    with contextlib.suppress(InputError):
        assert decode_image(bytes(data), "a", max_pixels=10_000).shape[2] == 3


SHOWN_AS = {  # by EXIF's orientation, as its standard describes where the stored row 0 and column 0 are seen
    1: lambda stored: stored,
    2: lambda stored: stored[:, ::-1],
    3: lambda stored: stored[::-1, ::-1],
    4: lambda stored: stored[::-1],
    5: lambda stored: np.rot90(stored[:, ::-1]),
    6: lambda stored: np.rot90(stored, -1),
    7: lambda stored: np.rot90(stored[:, ::-1], -1),
    8: lambda stored: np.rot90(stored),
    9: lambda stored: stored,
}


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", SHOWN_AS)
def test_images_are_shown_as_exif_says(orientation: int, kind: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    plain, turned = (_encoded(_picture(), kind, **options) for options in ({}, {"exif": exif}))
    np.testing.assert_array_equal(decode_image(turned, "a"), SHOWN_AS[orientation](decode_image(plain, "a")))
    assert shown_alike(turned) == (kind != "WEBP" and orientation in (1, 9))


def test_an_exif_block_that_cannot_be_read_turns_nothing() -> None:
    plain, broken = _encoded(_picture(), "JPEG"), _encoded(_picture(), "JPEG", exif=b"Exif\0\0nonsense")
    np.testing.assert_array_equal(decode_image(broken, "a"), decode_image(plain, "a"))


def test_of_16_bits_the_upper_8_stay() -> None:
    wide_HW = np.linspace(0, 65535, 160 * 90).astype(np.uint16).reshape(90, 160)
    found_HW3 = decode_image(_encoded(Image.fromarray(wide_HW)), "a")
    np.testing.assert_array_equal(found_HW3, np.repeat((wide_HW >> 8)[:, :, None], 3, axis=2))


def test_of_16_bits_the_upper_8_stay_in_the_form_of_older_pillows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PngImagePlugin._MODES, (16, 0), ("I", "I;16B"))  # as in 10.0
    test_of_16_bits_the_upper_8_stay()


@pytest.mark.parametrize(("mode", "kind"), [("1", "PNG"), ("L", "BMP"), ("LA", "PNG"), ("P", "PNG"), ("L", "JPEG")])
def test_grey_and_palettes_become_rgb(mode: str, kind: str) -> None:
    image = Image.fromarray(_picture()).convert(mode)
    found_HW3 = decode_image(_encoded(image, kind), "a")
    assert np.abs(found_HW3.astype(int) - np.asarray(image.convert("RGB"))).mean() < 3


def test_transparency_is_left_out() -> None:
    image = Image.fromarray(_picture()).convert("RGBA")
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    np.testing.assert_array_equal(decode_image(_encoded(image), "a"), _picture())
    assert not shown_alike(_encoded(image))


def test_cmyk_becomes_the_colours_that_were_printed() -> None:
    image = Image.fromarray(_picture()).convert("CMYK")
    found_HW3 = decode_image(_encoded(image, "JPEG", quality=95, subsampling=0), "a")
    assert np.abs(found_HW3.astype(int) - _picture()).mean() < 8


def test_pictures_too_large_to_be_sent_are_halved(tmp_path) -> None:
    noise_HW3 = np.random.default_rng(0).integers(0, 256, (2160, 3840, 3), dtype=np.uint8)
    assert noise_HW3.size == 3 * SENT_PIXELS
    np.testing.assert_array_equal(decode_image(picture_to_send(noise_HW3), "a"), noise_HW3)  # the worst that is whole
    wide_HW3 = np.repeat(np.repeat(noise_HW3[:600], 4, axis=0), 2, axis=1)
    path = tmp_path / "wide.bmp"
    Image.fromarray(wide_HW3).save(path)
    sent_HW3 = decode_image(image_file_to_send(path), "a")
    np.testing.assert_array_equal(sent_HW3, wide_HW3[::2, ::2])
    np.testing.assert_array_equal(read_image_file(path), wide_HW3)


def test_a_file_that_may_be_sent_is_sent_as_it_is(tmp_path) -> None:
    for content in (_encoded(_picture(), "JPEG"), b"not an image"):
        (tmp_path / "a").write_bytes(content)
        assert image_file_to_send(tmp_path / "a") == content
