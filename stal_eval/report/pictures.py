"""The images of example key frames, small enough to live inside the page (needs PIL)."""

import io
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from stal_data.clips import key_image_frame
from stal_data.dataset import Dataset
from stal_data.errors import InputError, StalError
from stal_data.keyframes import AnnotatedKeyFrame, KeyFrame

MAX_SIDE_PX = 640
MAX_TOTAL_BYTES = 4 << 20
_JPEG_QUALITY = 80


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A JPEG file; width and height in pixels."""

    jpeg: bytes
    width: int
    height: int


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """left_out: why a key frame has no picture."""

    by_key: dict[KeyFrame, Picture]
    left_out: dict[KeyFrame, str]


def read_pictures(dataset: Path, keys: Iterable[KeyFrame]) -> Pictures:
    """Read the key frames' images from the media of a data set, as many as MAX_TOTAL_BYTES hold.

    An error when not one of the key frames has an image there.
    """
    opened, keys = Dataset.open(dataset), list(keys)
    frame_of_key = _find(opened, set(keys))
    by_key: dict[KeyFrame, Picture] = {}
    left_out: dict[KeyFrame, str] = {}
    total = 0
    for key in keys:
        try:
            frame = key_image_frame(frame_of_key[key], opened.media.info(key.video))
            picture = _encode(opened.media.read(key.video, [frame])[0])
        except StalError as error:
            left_out[key] = str(error)
            continue
        total += len(picture.jpeg)
        if total > MAX_TOTAL_BYTES:
            left_out[key] = f"the pictures before it fill the page's {MAX_TOTAL_BYTES >> 20} MiB."
        else:
            by_key[key] = picture
    if keys and not by_key:
        raise InputError(
            f"{dataset} shows none of the {len(keys)} example key frames; {keys[0]}: {left_out[keys[0]]} "
            "Give the data set that the ground truth belongs to."
        )
    return Pictures(by_key=by_key, left_out=left_out)


def _find(dataset: Dataset, keys: set[KeyFrame]) -> dict[KeyFrame, AnnotatedKeyFrame]:
    """Return the data set's own key frames, which know their window; others stand at their time of the video."""
    found: dict[KeyFrame, AnnotatedKeyFrame] = {}
    for name, spec in dataset.spec.splits.items():
        if spec.annotations is not None and len(found) < len(keys):
            found |= {frame.key: frame for frame in dataset.split(name).key_frames if frame.key in keys}
    return {key: found.get(key) or _without_window(key) for key in keys}


def _without_window(key: KeyFrame) -> AnnotatedKeyFrame:
    return AnnotatedKeyFrame(key=key, window=None, boxes_N4=np.zeros((0, 4), np.float32), labels=(), persons=())


def _encode(image_HW3: NDArray[np.uint8]) -> Picture:
    image = Image.fromarray(image_HW3)
    image.thumbnail((MAX_SIDE_PX, MAX_SIDE_PX), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=_JPEG_QUALITY)
    return Picture(jpeg=buffer.getvalue(), width=image.width, height=image.height)
