"""Things in the hall that people sit on, come out of, hand over, and pass before or behind."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stal_data.synth.figure import SUPERSAMPLE, Light, Shape, disc, shade
from stal_data.synth.person import Colour
from stal_data.synth.skeleton import JOINTS, Figure
from stal_data.synth.style_b.acts import Track
from stal_data.synth.style_b.camera import STAGE_HEIGHT, Camera

Points = NDArray[np.float64]
_DARK: Colour = (34, 32, 36)
_BRIGHT: tuple[Colour, ...] = ((236, 64, 48), (250, 206, 40), (60, 200, 90), (70, 150, 250), (240, 120, 210))


@dataclass(frozen=True, slots=True, kw_only=True)
class Prop:
    """Polygons on the stage. row: where it stands; what stands farther down in the picture hides it."""

    row: float
    parts: tuple[tuple[Colour, float, Points], ...]
    """Colour, brightness and corners [P, 2]."""

    def shapes(self, camera: Camera, light: Light) -> list[Shape]:
        """The polygons in every frame."""
        shapes: list[Shape] = []
        for colour, factor, corners in self.parts:
            outline = camera.project(corners[None]) * SUPERSAMPLE
            flat = outline.reshape(len(outline), -1).tolist()
            depth = [float(len(shapes))] * len(outline)
            shapes.append(Shape(shade(colour, light, factor), flat, depth, shade(colour, light, 0.5 * factor)))
        return shapes


def _box(left: float, top: float, right: float, bottom: float) -> Points:
    left, right = min(left, right), max(left, right)
    return np.array([[left, top], [right, top], [right, bottom], [left, bottom]])


def _colour(rng: np.random.Generator) -> Colour:
    red, green, blue = (int(value) for value in rng.integers(50, 215, size=3))
    return (red, green, blue)


def seat(x: float, row: float, scale: float, rng: np.random.Generator) -> Prop:
    """A stool or a chair for somebody of this height in pixels."""
    colour, half = _colour(rng), 0.19 * scale
    top = row - 0.25 * scale
    parts = [
        (_DARK, 1.0, _box(x - 0.9 * half, top, x - 0.7 * half, row)),
        (_DARK, 1.0, _box(x + 0.7 * half, top, x + 0.9 * half, row)),
        (colour, 1.0, _box(x - half, top - 0.03 * scale, x + half, top + 0.05 * scale)),
    ]
    if rng.random() < 0.6:
        parts.insert(0, (colour, 0.8, _box(x - 0.9 * half, top - 0.3 * scale, x + 0.9 * half, top)))
    return Prop(row=row, parts=tuple(parts))


def cabin(x: float, row: float, scale: float, inwards: float, rng: np.random.Generator) -> tuple[Prop, Prop]:
    """A cabin whose door, at x, opens towards `inwards` (+1 right): what is behind and what is before its user."""
    wall, frame = _colour(rng), _colour(rng)
    near, far = row + 0.06 * scale, row - 0.06 * scale
    top, width = row - 1.2 * scale, 0.95 * scale
    door = x + inwards * 0.2 * scale
    behind = Prop(
        row=far,
        parts=(
            (frame, 0.7, _box(x, top, door + inwards * 3, far)),
            (_DARK, 1.0, _box(x, top + 5, door, far)),
        ),
    )
    before = Prop(
        row=near,
        parts=(
            (wall, 1.0, _box(x, top - 4, x - inwards * width, near)),
            (
                wall,
                0.75,
                _box(x - inwards * 0.2 * width, top + 0.25 * scale, x - inwards * 0.8 * width, row - 0.5 * scale),
            ),
            (frame, 1.0, _box(x, top - 4, x - inwards * 4, near)),
        ),
    )
    return behind, before


def obstacle(x: float, row: float, scale: float, rng: np.random.Generator) -> Prop:
    """A column, a plant in a tub or a railing."""
    colour = _colour(rng)
    kind = rng.choice(["column", "plant", "railing"])
    if kind == "column":
        half = rng.uniform(0.05, 0.1) * scale
        body = _box(x - half, -STAGE_HEIGHT, x + half, row)
        light = _box(x - half, -STAGE_HEIGHT, x - 0.3 * half, row)
        foot = _box(x - 1.3 * half, row - 0.1 * scale, x + 1.3 * half, row)
        return Prop(row=row, parts=((colour, 0.9, body), (colour, 1.15, light), (colour, 0.7, foot)))
    if kind == "railing":
        half, top = rng.uniform(0.35, 0.6) * scale, row - rng.uniform(0.3, 0.42) * scale
        posts = [(colour, 0.8, _box(x + p * half - 1.5, top, x + p * half + 1.5, row)) for p in np.linspace(-1, 1, 5)]
        bars = [(colour, 1.0, _box(x - half, y, x + half, y + 3)) for y in (top, (top + row) / 2)]
        return Prop(row=row, parts=tuple(posts + bars))
    half, tub = rng.uniform(0.12, 0.2) * scale, row - 0.2 * scale
    leaves = []
    for _ in range(7):
        tip = np.array([x + rng.normal(0, 0.9) * half, tub - rng.uniform(0.12, 0.34) * scale])
        leaves.append(((70, 128, 62), float(rng.uniform(0.7, 1.2)), np.array([[x - 4, tub], [x + 4, tub], tip])))
    pot = np.array([[x - half, tub], [x + half, tub], [x + 0.75 * half, row], [x - 0.75 * half, row]])
    return Prop(row=row, parts=(*leaves, (colour, 1.0, pot)))


def parcel(holders: tuple[tuple[Figure, int, Track], ...], light: Light, rng: np.random.Generator) -> list[Shape]:
    """What is carried: where the hands (figure, side, share in holding it [T]) of its holders are."""
    centre_T2 = np.zeros_like(holders[0][0].ground_T2)
    for figure, side, share_T in holders:
        centre_T2 += share_T[:, None] * figure.points_TJ2[:, JOINTS.index(("hand_l", "hand_r")[side])]
    size_T = rng.uniform(0.05, 0.065) * holders[0][0].scale_T * SUPERSAMPLE
    colour = _BRIGHT[rng.integers(len(_BRIGHT))]
    centre_T2 = centre_T2 * SUPERSAMPLE - np.stack([np.zeros_like(size_T), 0.4 * size_T], axis=1)
    square = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * size_T[:, None, None]
    outline = disc(centre_T2, size_T, size_T) if rng.random() < 0.4 else centre_T2[:, None] + square
    flat = outline.reshape(len(outline), -1).tolist()
    return [Shape(shade(colour, light), flat, [0.0] * len(flat), shade(colour, light, 0.45))]
