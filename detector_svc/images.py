"""From the bytes that a client sends to pixels, within limits checked before anything is decoded."""

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from stal_data.errors import InputError

MAX_IMAGE_BYTES = 24 << 20  # 24 MiB
MAX_PIXELS = 40_000_000
_FORMATS = ("JPEG", "PNG")


def decode_image(
    data: bytes, frame_id: str, *, max_bytes: int = MAX_IMAGE_BYTES, max_pixels: int = MAX_PIXELS
) -> NDArray[np.uint8]:
    """Return the image as HW3 RGB, as stored: an EXIF rotation is not applied, so boxes refer to the pixels as sent."""
    if len(data) > max_bytes:
        raise InputError(f"Frame '{frame_id}' has {len(data)} bytes; at most {max_bytes} are accepted. Send JPEG.")
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            width, height = image.size
            if width * height > max_pixels:
                raise InputError(
                    f"Frame '{frame_id}' is {width}x{height}; at most {max_pixels} pixels are accepted. Scale it down."
                )
            return np.asarray(image.convert("RGB"))
    except UnidentifiedImageError:
        kind = "empty" if not data else "not a JPEG or PNG image"
        raise InputError(f"Frame '{frame_id}' is {kind}.") from None
    except InputError:
        raise
    except Exception as error:  # decoders of foreign bytes raise whatever they like
        raise InputError(f"Frame '{frame_id}' cannot be decoded: {error}.") from error
