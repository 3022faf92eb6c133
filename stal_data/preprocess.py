"""From decoded frames to what the backbones see."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

MEAN, STD = np.float32(0.45), np.float32(0.225)
# The value of each of the 256 levels: the same float32 operations as on whole frames, done once.
_LEVELS = ((np.arange(256, dtype=np.float32) / np.float32(255)) - MEAN) / STD


def preprocess_clip(frames_THW3: NDArray[np.uint8], height: int, width: int) -> NDArray[np.float32]:
    """Return the clip as 3THW: resized to exactly height x width (PIL bilinear), RGB, /255, minus 0.45, over 0.225."""
    return normalise_clip(resize_clip(frames_THW3, height, width))


def normalise_clip(frames_THW3: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the frames as 3THW: /255, minus 0.45, over 0.225."""
    return np.ascontiguousarray(_LEVELS[frames_THW3].transpose(3, 0, 1, 2))


def resize_clip(frames_THW3: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """Return the frames at exactly height x width (PIL bilinear) as THW3; equal frames are resized once."""
    num_frames = len(frames_THW3)
    resized_THW3 = np.empty((num_frames, height, width, 3), dtype=np.uint8)
    seen: dict[bytes, list[int]] = {}
    for index, frame_HW3 in enumerate(frames_THW3):
        # Short windows repeat frames; a few pixels tell which ones may be equal, a full comparison decides.
        candidates = seen.setdefault(frame_HW3[::16, ::16].tobytes(), [])
        twin = next((other for other in candidates if np.array_equal(frames_THW3[other], frame_HW3)), None)
        if twin is not None:
            resized_THW3[index] = resized_THW3[twin]
            continue
        candidates.append(index)
        resized_THW3[index] = resize_frame(frame_HW3, height, width)
    return resized_THW3


def resize_frame(frame_HW3: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """Return one frame at exactly height x width (PIL bilinear)."""
    return np.asarray(Image.fromarray(frame_HW3).resize((width, height), Image.Resampling.BILINEAR))
