"""Annotated frames: every caption readable, boxes where they belong, the original untouched."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stal_data.errors import InputError
from stal_eval.annotate import COLOURS, draw_actions

GREY = np.full((360, 640, 3), 90, np.uint8)


def share(picture: np.ndarray, colour: tuple[int, int, int]) -> float:
    return float((picture == np.array(colour, np.uint8)).all(axis=-1).mean())


def test_boxes_are_drawn_at_their_place_and_the_input_stays_as_it_is() -> None:
    image = GREY.copy()
    drawn = draw_actions(image, np.array([[0.25, 0.5, 0.5, 1.0]]), [""])
    assert (image == GREY).all()
    assert drawn.shape == GREY.shape
    rows, columns = np.nonzero((drawn != 90).any(axis=-1))
    assert (columns.min(), columns.max(), rows.min(), rows.max()) == (160, 320, 180, 359)
    assert (drawn[200:340, 170:310] == 90).all()


@given(
    seed=st.integers(0, 1000),
    count=st.integers(1, 8),
    words=st.sampled_from(["run 0.91", "watching someone 0.77\nstanding 0.40"]),
)
@settings(max_examples=25)
def test_captions_do_not_hide_each_other(seed: int, count: int, words: str) -> None:
    boxes = np.sort(np.random.default_rng(seed).random((count, 2, 2)), axis=1).reshape(count, 4)
    dark = [(0, 0, 160)] * count  # which makes the texts white, as nothing else is
    alone = share(draw_actions(GREY, boxes[:1], [words], colours=dark), (255, 255, 255))
    together = share(draw_actions(GREY, boxes, [words] * count, colours=dark), (255, 255, 255))
    assert together >= 0.97 * count * alone > 0


def test_a_caption_wider_than_the_image_is_cut_and_many_boxes_repeat_colours() -> None:
    small = np.zeros((90, 120, 3), np.uint8)
    boxes = np.tile([0.0, 0.0, 1.0, 1.0], (len(COLOURS) + 1, 1))
    drawn = draw_actions(small, boxes, ["a very long name of an action that cannot fit 0.50"] + [""] * len(COLOURS))
    assert drawn.shape == small.shape
    assert share(drawn, COLOURS[0]) > 0


def test_no_box_is_no_change() -> None:
    assert (draw_actions(GREY, np.zeros((0, 4), np.float32), []) == GREY).all()


def test_wrong_images_and_captions_are_refused() -> None:
    with pytest.raises(InputError, match=r"float64 of shape .*, but must be uint8 RGB"):
        draw_actions(GREY / 255, np.zeros((0, 4)), [])
    with pytest.raises(InputError, match="There are 1 captions for 2 boxes"):
        draw_actions(GREY, np.zeros((2, 4)), ["a"])
