"""Which image bytes are accepted."""

import contextlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detector_svc.images import decode_image
from stal_data.errors import InputError
from tests.detector.samples import encoded, picture


def test_png_is_exact_and_jpeg_is_close() -> None:
    image_HW3 = picture(1)
    np.testing.assert_array_equal(decode_image(encoded(image_HW3), "a"), image_HW3)
    assert np.abs(decode_image(encoded(image_HW3, "JPEG"), "a").astype(int) - image_HW3).mean() < 8


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "is empty"),
        (b"hello", "not a JPEG or PNG"),
        (encoded(picture(1), "BMP"), "not a JPEG or PNG"),
        (encoded(picture(1))[:-200], "cannot be decoded"),
    ],
)
def test_bad_images_name_the_frame(data: bytes, text: str) -> None:
    with pytest.raises(InputError, match=f"Frame 'v,0007' .*{text}|Frame 'v,0007' {text}"):
        decode_image(data, "v,0007")


def test_limits_hold_before_decoding() -> None:
    data = encoded(picture(1, 200, 100))
    with pytest.raises(InputError, match="200x100; at most 19999 pixels"):
        decode_image(data[:60], "a", max_pixels=19999)  # only the head is there
    with pytest.raises(InputError, match="bytes; at most 10"):
        decode_image(data, "a", max_bytes=10)


@given(st.binary(max_size=64), st.integers(0, 400), st.sampled_from(["PNG", "JPEG"]))
def test_damaged_images_raise_only_input_errors(junk: bytes, position: int, kind: str) -> None:
    data = bytearray(encoded(picture(1, 24, 16), kind))
    data[position : position + len(junk)] = junk
    with contextlib.suppress(InputError):
        assert decode_image(bytes(data), "a", max_pixels=10_000).shape[2] == 3
