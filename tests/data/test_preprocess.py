"""Frames become what the published code feeds its backbones."""

from pathlib import Path

import numpy as np
from PIL import Image

from stal_data.preprocess import preprocess_clip

FIXTURES = Path(__file__).parent / "fixtures"


def _frame() -> np.ndarray:
    with Image.open(FIXTURES / "frame_320x180.png") as image:
        return np.asarray(image.convert("RGB"))


def test_a_frame_equals_the_published_tensor_exactly() -> None:
    clip_3THW = preprocess_clip(_frame()[None], 224, 224)
    assert clip_3THW.shape == (3, 1, 224, 224)
    assert clip_3THW.dtype == np.float32
    np.testing.assert_array_equal(clip_3THW[:, 0, ::4, ::4], np.load(FIXTURES / "frame_224.npz")["x"])


def test_repeated_and_nearly_equal_frames_are_told_apart() -> None:
    frame = _frame()
    other = frame.copy()
    other[1, 1] = 255 - other[1, 1]  # not among the pixels that are compared first
    clip_3THW = preprocess_clip(np.stack([frame, other, frame, other]), 96, 160)
    alone_3HW = [preprocess_clip(item[None], 96, 160)[:, 0] for item in (frame, other)]
    assert not np.array_equal(alone_3HW[0], alone_3HW[1])
    for index in range(4):
        np.testing.assert_array_equal(clip_3THW[:, index], alone_3HW[index % 2])
