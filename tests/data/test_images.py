"""Which image bytes are accepted, and what becomes of them."""

import contextlib
import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from stal_data.errors import InputError
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
