"""Boxes and labels on the pictures of a video, in about a millisecond each."""

from collections.abc import Mapping
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from cli.workflow.predictions import Person

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
MAX_LABELS = 3
"""Actions written at a person, the best ones."""
NO_ACTION: Colour = (190, 190, 190)
_FONT_SHARE = 1 / 34  # of the shorter side
_SMALLEST_FONT = 10
_FONTS = ("DejaVuSans.ttf", "NotoSans-Regular.ttf", "NotoSansCJK-Regular.ttc", "Arial Unicode.ttf", "msyh.ttc")
"""Looked for in the system's folders, in this order, where Pillow's own font lacks a character."""


def action_colour(label: int) -> Colour:
    """Return the colour of an action: always the same for a label id (from 1)."""
    return COLOURS[(label - 1) % len(COLOURS)]


class PeoplePainter:
    """Draws people with their ids and best actions, in the colours of the actions."""

    def __init__(self, names: Mapping[int, str], width: int, height: int) -> None:
        """names: by label id. width, height: of the pictures, in pixels."""
        self._size = max(_SMALLEST_FONT, round(min(width, height) * _FONT_SHARE))
        names = {label: " ".join(name.split()) for label, name in names.items()}
        fonts = {label: _font_for(name, self._size) for label, name in names.items()}
        self.unwritable = sorted(name for label, name in names.items() if fonts[label] is None)
        """The names that no font has the characters for: their label ids are drawn instead."""
        self._own = ImageFont.load_default(self._size)
        self._words = {
            label: (f"action {label}", self._own) if (font := fonts[label]) is None else (name, font)
            for label, name in names.items()
        }

    def draw(self, picture_HW3: NDArray[np.uint8], people: Mapping[int, Person]) -> None:
        """Draw people, by id, into an RGB picture."""
        height, width = picture_HW3.shape[:2]
        line = max(2, round(self._size / 6))
        placed: list[tuple[int, Person, tuple[int, int]]] = []
        for person, found in sorted(people.items()):
            sides = np.rint(np.clip(found.box, 0, 1) * (width, height, width, height)).astype(int).tolist()
            x1, y1, x2, y2 = sides[0], sides[1], max(sides[2], sides[0] + line), max(sides[3], sides[1] + line)
            colour = action_colour(found.actions[0][0]) if found.actions else NO_ACTION
            picture_HW3[y1 : y1 + line, x1:x2] = picture_HW3[y2 - line : y2, x1:x2] = colour
            picture_HW3[y1:y2, x1 : x1 + line] = picture_HW3[y1:y2, x2 - line : x2] = colour
            placed.append((person, found, (x1, y1)))
        taken: list[tuple[int, int, int, int]] = []
        for person, found, (x1, y1) in placed:  # labels lie above all boxes
            texts = [
                (f"{self._words[label][0]} {100 * score:.0f}%", action_colour(label), self._words[label][1])
                for label, score in found.actions[:MAX_LABELS]
            ] or [("", NO_ACTION, self._own)]
            texts[0] = (f"{person}  {texts[0][0]}", *texts[0][1:])
            labels = [_written(*text) for text in texts]
            tall, wide = sum(map(len, labels)), max(label_HW3.shape[1] for label_HW3 in labels)
            x = max(0, min(x1, width - wide))
            y = y1 - tall if y1 >= tall else min(y1, max(0, height - tall))  # above the box, else inside
            # Where labels of others stand, the nearest place above them, or else below.
            beside = [(top, bottom) for left, top, right, bottom in taken if x < right and x + wide > left]
            places = [y, *(place for top, bottom in beside for place in (top - tall, bottom))]
            free = [
                place
                for place in places
                if 0 <= place <= height - tall and all(place >= b or place + tall <= t for t, b in beside)
            ]
            y = min(free, key=lambda place: (place > y, abs(place - y)), default=y)
            taken.append((x, y, x + wide, y + tall))
            for label_HW3 in labels:
                room_HW3 = picture_HW3[y : y + len(label_HW3), x : x + label_HW3.shape[1]]
                room_HW3[:] = label_HW3[: room_HW3.shape[0], : room_HW3.shape[1]]
                y += len(label_HW3)


def _text_colour(background: Colour) -> Colour:
    """Return black or white, whichever is easier to read."""
    red, green, blue = background
    return (0, 0, 0) if 0.299 * red + 0.587 * green + 0.114 * blue > 120 else (255, 255, 255)  # Rec. 601 luma


@lru_cache(1024)
def _written(text: str, colour: Colour, font: Font) -> NDArray[np.uint8]:
    _, top, _, bottom = font.getbbox(f"{text}Ág")  # the height of any line
    picture = Image.new("RGB", (int(font.getlength(text)) + 8, int(bottom - top) + 4), colour)
    ImageDraw.Draw(picture).text((4, 2 - top), text, fill=_text_colour(colour), font=font)
    return np.asarray(picture)


def _font_for(text: str, size: int) -> Font | None:
    for name in (None, *_FONTS):
        try:
            font = ImageFont.load_default(size) if name is None else ImageFont.truetype(name, size)
        except OSError:  # not on this machine
            continue
        missing = bytes(font.getmask("\U0010ffff"))  # what is drawn for any character that it lacks
        if all(bytes(font.getmask(character)) != missing for character in set(text) if not character.isspace()):
            return font
    return None
