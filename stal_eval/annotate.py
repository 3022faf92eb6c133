"""Frames with boxes and readable captions drawn on them (extra `report`). Drawing coordinates are pixels, x then y."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from stal_data.boxes import shared_areas
from stal_data.errors import InputError

Colour = tuple[int, int, int]
Font = ImageFont.ImageFont | ImageFont.FreeTypeFont

# Bright enough for dark street scenes, and apart for people with any kind of colour vision.
COLOURS: tuple[Colour, ...] = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 190, 130),
    (240, 228, 66),
    (70, 130, 255),
    (235, 110, 40),
    (220, 140, 190),
)
_SMALLEST_FONT = 10
_FONT_SHARE = 1 / 34  # of the image's height
_GRID = 16  # places per direction where a caption may go when none beside its box is free


@dataclass(frozen=True, slots=True)
class _Caption:
    text: str
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class _Placed:
    """area: where the caption stands, box: what it belongs to; both x1,y1,x2,y2 in pixels."""

    text: str
    area: NDArray[np.float64]
    box: NDArray[np.float64]
    colour: Colour


def draw_actions(
    image_HW3: NDArray[np.uint8],
    boxes_N4: NDArray[np.floating],
    captions: Sequence[str],
    *,
    colours: Sequence[Colour] = COLOURS,
) -> NDArray[np.uint8]:
    """Return a copy of an RGB image with N boxes and their captions.

    boxes_N4: x1,y1,x2,y2 in [0,1]. captions: one a box, may have several lines, or be empty. colours: RGB, repeated
    when there are more boxes.

    A caption stands beside its box, or further off with a line to it, where it hides the least of other captions and
    boxes.
    """
    if image_HW3.ndim != 3 or image_HW3.shape[2] != 3 or image_HW3.dtype != np.uint8:
        raise InputError(
            f"The image is {image_HW3.dtype} of shape {image_HW3.shape}, but must be uint8 RGB of shape (H, W, 3)."
        )
    if len(captions) != len(boxes_N4):
        raise InputError(f"There are {len(captions)} captions for {len(boxes_N4)} boxes; give one a box.")
    picture = Image.fromarray(image_HW3).copy()
    width, height = picture.size
    draw = ImageDraw.Draw(picture)
    size = max(_SMALLEST_FONT, round(height * _FONT_SHARE))
    line = max(1, round(size / 8))
    boxes = np.rint(np.asarray(boxes_N4, dtype=np.float64).reshape(-1, 4) * (width, height, width, height))
    boxes = boxes.clip(0, (width - 1, height - 1, width - 1, height - 1))
    for index, box in enumerate(boxes):
        draw.rectangle(tuple(box), outline=colours[index % len(colours)], width=line)
    font = ImageFont.load_default(size)
    placed: list[_Placed] = []
    for index, box in enumerate(boxes):
        if captions[index]:
            caption = _measure(draw, captions[index], font, width)
            others = np.delete(boxes, index, axis=0)
            area = _place(box, caption, others, [other.area for other in placed], (width, height))
            placed.append(_Placed(caption.text, area, box, colours[index % len(colours)]))
    # Lines first, so that none crosses a text.
    for item in placed:
        _draw_line(draw, item, line)
    for item in placed:
        _draw_caption(draw, item, font)
    return np.asarray(picture)


def _measure(draw: ImageDraw.ImageDraw, text: str, font: Font, limit: int) -> _Caption:
    lines = []
    for line in text.split("\n"):
        shown = line
        while shown and draw.textlength(shown, font=font) > limit - 6:
            shown = shown[:-2].rstrip() + "…" if len(shown) > 2 else ""
        lines.append(shown)
    shown_text = "\n".join(lines)
    left, top, right, bottom = draw.multiline_textbbox((0, 0), shown_text, font=font, spacing=2)
    return _Caption(shown_text, int(right - min(left, 0)) + 6, int(bottom - min(top, 0)) + 4)


def _place(
    box: NDArray[np.float64],
    caption: _Caption,
    others: NDArray[np.float64],
    placed: Sequence[NDArray[np.float64]],
    image_size: tuple[int, int],
) -> NDArray[np.float64]:
    """Return the caption's area x1,y1,x2,y2 with the lowest cost among places beside the box and all over the image."""
    x1, y1, x2, y2 = box
    w, h = caption.width, caption.height
    across, down = image_size[0] - w, image_size[1] - h
    beside = [(x1, y1 - h), (x2 - w, y1 - h), (x1, y2), (x2 - w, y2), (x2, y1), (x1 - w, y1), (x1, y1), (x1, y2 - h)]
    anywhere = [(x, y) for x in np.linspace(0, across, _GRID) for y in np.linspace(0, down, _GRID)]
    corners = np.array(beside + anywhere).clip(0, (max(across, 0), max(down, 0)))
    areas = np.hstack([corners, corners + np.array([w, h])])
    gap_x = np.maximum(np.maximum(x1 - areas[:, 2], areas[:, 0] - x2), 0)
    gap_y = np.maximum(np.maximum(y1 - areas[:, 3], areas[:, 1] - y2), 0)
    # In pixels of covered area: an unreadable caption is worst, then people hidden, then the distance.
    cost = (gap_x + gap_y) * h
    cost += 20 * sum((shared_areas(areas, area[None])[:, 0] for area in placed), start=np.zeros(len(areas)))
    cost += 0.7 * sum((shared_areas(areas, other[None])[:, 0] for other in others), start=np.zeros(len(areas)))
    cost += 0.4 * shared_areas(areas, box[None])[:, 0]
    return np.asarray(areas[int(cost.argmin())], dtype=np.float64)


def _draw_line(draw: ImageDraw.ImageDraw, item: _Placed, thickness: int) -> None:
    start, end = item.area[:2], item.area[2:]
    if (start > item.box[2:] + thickness).any() or (end < item.box[:2] - thickness).any():
        centre = (start + end) / 2
        draw.line([*centre.clip(item.box[:2], item.box[2:]), *centre], fill=item.colour, width=thickness)


def _draw_caption(draw: ImageDraw.ImageDraw, item: _Placed, font: Font) -> None:
    draw.rectangle(tuple(item.area), fill=item.colour)
    place = (item.area[0] + 3, item.area[1] + 1)
    draw.multiline_text(place, item.text, fill=text_colour(item.colour), font=font, spacing=2)


def text_colour(background: Colour) -> Colour:
    """Return black or white, whichever is easier to read."""
    red, green, blue = background
    return (0, 0, 0) if 0.299 * red + 0.587 * green + 0.114 * blue > 120 else (255, 255, 255)  # Rec. 601 luma
