"""From the bytes of an image file to RGB pixels: the one way for frame folders, the detector and its training."""

import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from stal_data.errors import InputError
from stal_data.media.image_work import check_image_work
from stal_data.media.turning import Turn, turn_of_exif
from stal_data.user_files import read_bounded

FORMATS = ("JPEG", "PNG", "WEBP", "BMP")
"""What is read, by Pillow's names; no other decoder sees a byte."""
FORMATS_TEXT = "JPEG, PNG, WebP or BMP"
MAX_IMAGE_BYTES = 24 << 20  # 24 MiB
MAX_PIXELS = 40_000_000
MAX_FILE_BYTES = 256 << 20
"""Of frames on this machine, which are read from a disk and not sent."""
MAX_FILE_PIXELS = 80_000_000
SENT_PIXELS = 3840 * 2160
"""Larger pictures are halved before they are sent: so many fit into MAX_IMAGE_BYTES as PNG, whatever they show."""
_ORIENTATION = 0x0112
_RUN_LENGTHS = (1, 2)
_WIDE_GREY = ("I;16", "I;16L", "I;16B", "I;16N")


def decode_image(
    data: bytes, name: str, *, max_bytes: int = MAX_IMAGE_BYTES, max_pixels: int = MAX_PIXELS
) -> NDArray[np.uint8]:
    """Return an image as HW3 RGB, as a viewer shows it.

    Turned as EXIF says. Grey, palettes and CMYK become RGB; of 16 bits the upper 8 stay; transparency is left out.
    name: what errors call the image, at the beginning of a sentence. Limits hold before a pixel is decoded.
    """
    if len(data) > max_bytes:
        raise InputError(f"{name} has {len(data)} bytes; at most {max_bytes} are accepted. Send JPEG.")
    check_image_work(data, name)
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            width, height = image.size
            if width * height > max_pixels:
                raise InputError(
                    f"{name} is {width}x{height}; at most {max_pixels} pixels are accepted. Scale it down."
                )
            if image.info.get("compression") in _RUN_LENGTHS and image.format == "BMP":
                raise InputError(f"{name} is a BMP of run lengths, which take long to decode. Save it as PNG.")
            pixels_HW3 = _rgb(image, name)  # before the turn: a PNG may hold its EXIF block behind the pixels
            return np.ascontiguousarray(_turn(image).shown(pixels_HW3))
    except UnidentifiedImageError:
        raise InputError(f"{name} is {'not a ' + FORMATS_TEXT + ' image' if data else 'empty'}.") from None
    except InputError:
        raise
    except Exception as error:  # decoders of foreign bytes raise whatever they like
        raise InputError(f"{name} cannot be decoded: {error}.") from error


def read_image_file(path: Path) -> NDArray[np.uint8]:
    """Return an image file as `decode_image` does; an error names the file."""
    data = image_file_bytes(path)
    try:
        return decode_image(data, "it", max_bytes=MAX_FILE_BYTES, max_pixels=MAX_FILE_PIXELS)
    except InputError as error:
        raise InputError(
            f"{path} does not decode as an image ({str(error).rstrip('.')}): extract the video again, as PNG or JPEG."
        ) from error


def image_file_bytes(path: Path) -> bytes:
    """Return the bytes of an image file."""
    try:
        return read_bounded(path, MAX_FILE_BYTES)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}.") from error


def image_file_to_send(path: Path) -> bytes:
    """Return the file's bytes, or a PNG of its picture where they are too many or the picture is too large."""
    data = image_file_bytes(path)
    try:
        check_image_work(data, "it")
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            too_large = len(data) > MAX_IMAGE_BYTES or image.width * image.height > SENT_PIXELS
    except Exception:  # noqa: BLE001 - who decodes it says what is wrong
        return data
    return picture_to_send(read_image_file(path)) if too_large else data


def picture_to_send(picture_HW3: NDArray[np.uint8]) -> bytes:
    """Return a picture as PNG; one of more than SENT_PIXELS is halved (means of 2x2 pixels) until it has no more."""
    image = Image.fromarray(picture_HW3)
    while image.width * image.height > SENT_PIXELS:
        image = image.reduce(2)
    file = io.BytesIO()
    # Level 1: the bytes travel over a local network once; the strongest level takes ten times as long.
    image.save(file, format="png", compress_level=1)
    return file.getvalue()


def shown_alike(data: bytes) -> bool:
    """Whether every reader sees what `decode_image` does: a JPEG or PNG, grey or RGB, that is not turned."""
    try:
        check_image_work(data, "it")
        with Image.open(io.BytesIO(data), formats=("JPEG", "PNG")) as image:
            if image.width * image.height > MAX_FILE_PIXELS:
                return False
            image.load()
            return image.mode in ("L", "RGB") and _turn(image) == Turn()
    except Exception:  # noqa: BLE001 - decoders of foreign bytes raise whatever they like
        return False


def _rgb(image: Image.Image, name: str) -> NDArray[np.uint8]:
    if image.mode in _WIDE_GREY or (image.mode == "I" and image.format == "PNG"):  # the latter before Pillow 10.1
        grey_HW = (np.asarray(image) >> 8).astype(np.uint8)
        return np.repeat(grey_HW[:, :, None], 3, axis=2)
    if image.mode not in ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK"):
        raise InputError(f"{name} has pixels of the kind '{image.mode}': save it with 8 or 16 bits a channel.")
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))


def _turn(image: Image.Image) -> Turn:
    try:
        return turn_of_exif(image.getexif().get(_ORIENTATION))
    except Exception:  # noqa: BLE001 - a block that cannot be read says nothing; viewers show such a picture unturned
        return Turn()
