"""Draw a posed person: shaded limbs, clothes, head and hair, at twice the frame's resolution."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from stal_data.synth.person import Colour, Person
from stal_data.synth.skeleton import HEAD, JOINTS, Figure

SUPERSAMPLE = 2
_J = {name: index for index, name in enumerate(JOINTS)}
_CAP = np.linspace(-np.pi / 2, np.pi / 2, 5)
_DISC = np.linspace(0, 2 * np.pi, 14, endpoint=False)

Outline = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Shape:
    """A filled polygon in every frame: flat x,y lists in supersampled pixels, and depth for the drawing order."""

    colour: Colour
    outlines: list[list[float]]
    depth: list[float]
    edge: Colour | None = None
    """Colour of a thin line around the polygon, where it has one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Light:
    """The light of a scene: per-channel gain, and from which side of the screen it comes (-1 left, +1 right)."""

    gain: tuple[float, float, float]
    side: float


def shade(colour: Colour, light: Light, factor: float = 1.0) -> Colour:
    """A surface colour under the scene's light."""
    red, green, blue = (min(255, int(c * g * factor)) for c, g in zip(colour, light.gain, strict=True))
    return (red, green, blue)


def capsule(start: Outline, end: Outline, start_width: Outline, end_width: Outline) -> Outline:
    """Outlines [T, 2 * caps, 2] of a tapered limb with round ends; widths are radii, [T]."""
    along = end - start
    angle = np.arctan2(along[:, 1], along[:, 0])
    ends = []
    for centre, radius, turn in ((end, end_width, 0.0), (start, start_width, np.pi)):
        theta = angle[:, None] + _CAP + turn
        ends.append(centre[:, None] + radius[:, None, None] * np.stack([np.cos(theta), np.sin(theta)], axis=-1))
    return np.concatenate(ends, axis=1)


def disc(centre: Outline, radius_x: Outline, radius_y: Outline) -> Outline:
    ring = np.stack([radius_x[:, None] * np.cos(_DISC), radius_y[:, None] * np.sin(_DISC)], axis=-1)
    return centre[:, None] + ring


class Sketch:
    """Collects the shapes of one figure over its frames."""

    def __init__(self, figure: Figure, light: Light) -> None:
        self.points = figure.points_TJ2 * SUPERSAMPLE
        self.depth = figure.depth_TJ
        self.unit = figure.scale_T * SUPERSAMPLE
        self.light = light
        self.shapes: list[Shape] = []

    def at(self, joint: str) -> Outline:
        return self.points[:, _J[joint]]

    def add(
        self, colour: Colour, outline: Outline, depth: Outline, factor: float = 1.0, edge: float | None = None
    ) -> None:
        """Add a polygon [T, points, 2]; `edge` is the brightness of a line around it."""
        flat = outline.reshape(len(outline), -1)
        line = None if edge is None else shade(colour, self.light, edge)
        self.shapes.append(Shape(shade(colour, self.light, factor), flat.tolist(), depth.tolist(), line))

    def limb(self, colour: Colour, start: Outline, end: Outline, radii: tuple[float, float], depth: Outline) -> None:
        """A limb with a lit and a shaded side."""
        first, last = radii[0] * self.unit, radii[1] * self.unit
        self.add(colour, capsule(start, end, first, last), depth, 0.74)
        offset = np.stack([self.light.side * 0.28 * first, -0.1 * first], axis=-1)
        self.add(colour, capsule(start + offset, end + offset, 0.68 * first, 0.68 * last), depth + 1e-3)


def make_shapes(figure: Figure, light: Light) -> list[Shape]:
    """All shapes of a figure over its frames."""
    sketch = Sketch(figure, light)
    for side in ("l", "r"):
        _draw_leg(sketch, figure.person, side)
        _draw_arm(sketch, figure.person, side)
    _draw_trunk(sketch, figure)
    _draw_head(sketch, figure)
    return sketch.shapes


def _draw_leg(sketch: Sketch, person: Person, side: str) -> None:
    hip, knee, ankle, toe = (sketch.at(f"{joint}_{side}") for joint in ("hip", "knee", "ankle", "toe"))
    depth = 0.6 * sketch.depth[:, _J[f"hip_{side}"]] + 0.4 * sketch.depth[:, _J[f"knee_{side}"]]
    build = person.build
    bare = person.bottom_kind != "trousers"
    shin = person.skin if bare else person.bottom
    sketch.limb(person.shoes, ankle + (toe - ankle) * 0.05, toe, (0.03, 0.024), depth - 2e-3)
    sketch.limb(shin, knee, ankle, (0.038 * build, (0.024 if bare else 0.03) * build), depth - 1e-3)
    sketch.limb(person.bottom, hip, knee, (0.058 * build, 0.042 * build), depth + 2e-3)


def _draw_arm(sketch: Sketch, person: Person, side: str) -> None:
    shoulder, elbow, hand = (sketch.at(f"{joint}_{side}") for joint in ("shoulder", "elbow", "hand"))
    depth = 0.5 * sketch.depth[:, _J[f"shoulder_{side}"]] + 0.5 * sketch.depth[:, _J[f"hand_{side}"]]
    build = person.build
    sleeve = person.top if person.sleeve == "long" else person.skin
    tip = hand + (hand - elbow) * 0.18
    sketch.limb(person.skin, hand, tip, (0.02, 0.019), depth + 1.5e-2)
    sketch.limb(sleeve, elbow, hand, (0.026 * build, 0.021 * build), depth + 1.2e-2)
    sketch.limb(person.top, shoulder, elbow, (0.036 * build, 0.029 * build), depth + 1e-2)


def _draw_trunk(sketch: Sketch, figure: Figure) -> None:
    person, unit = figure.person, sketch.unit
    across, along = abs(np.sin(figure.heading)), abs(np.cos(figure.heading))
    chest, pelvis, head = sketch.at("chest"), sketch.at("pelvis"), sketch.at("head")
    zero = np.zeros(len(unit))
    shoulder = float(np.hypot((person.shoulder + 0.025) * across, 0.072 * person.build * along))
    waist = float(np.hypot((person.hip + 0.035) * across, 0.062 * person.build * along))
    up = chest - pelvis
    high, low = chest - 0.12 * up, pelvis + 0.1 * up
    sketch.limb(person.skin, chest - 0.05 * up, head, (0.03, 0.028), zero - 2e-3)
    sketch.limb(person.top, high, low, (0.9 * shoulder, waist), zero)
    if person.stripe is not None:
        middle = chest - 0.45 * up
        width = 0.5 * (shoulder + waist) * 0.8
        sketch.add(person.stripe, disc(middle, width * unit, 0.03 * unit), zero + 3e-3)
    hips = 0.5 * (sketch.at("hip_l") + sketch.at("hip_r"))
    if person.bottom_kind == "skirt":
        knees = 0.5 * (sketch.at("knee_l") + sketch.at("knee_r"))
        spread = 0.5 * np.linalg.norm(sketch.at("knee_l") - sketch.at("knee_r"), axis=1) / unit
        hem = hips + 0.85 * (knees - hips)
        radius = np.clip(waist + 0.6 * spread, 0, 0.17)
        sketch.add(person.bottom, capsule(low, hem, waist * unit, radius * unit), zero + 0.2, 0.85)
    else:
        sketch.limb(person.bottom, low, hips, (waist, 0.9 * waist), zero - 1e-3)
    if person.backpack is not None:
        behind = 0.11 * np.array([-np.cos(figure.heading), -0.2 * np.sin(figure.heading)])
        centre = chest - 0.4 * up + behind * unit[:, None]
        width = 0.06 + 0.05 * across
        sketch.add(person.backpack, disc(centre, width * unit, 0.12 * unit), zero - 0.25 * np.sin(figure.heading))


def _draw_head(sketch: Sketch, figure: Figure) -> None:
    person, unit = figure.person, sketch.unit
    centre = sketch.at("head")
    cos, sin = np.cos(figure.heading), np.sin(figure.heading)
    front = sketch.depth[:, _J["head"]] + 0.05
    radius = HEAD * unit

    def shifted(x: float, y: float) -> Outline:
        return centre + np.array([x, y]) * radius[:, None]

    cover = person.hat or person.hair
    if person.long_hair:
        back = shifted(-0.35 * cos, 0.75)
        sketch.add(person.hair, disc(back, 0.85 * radius, 1.1 * radius), front - 0.1 * sin, 0.8)
    sketch.add(person.skin, disc(centre, 0.86 * radius, 1.05 * radius), front, 0.9)
    sketch.add(cover, disc(shifted(-0.28 * cos, -0.38 + 0.1 * sin), 0.9 * radius, 0.78 * radius), front + 1e-3, 0.9)
    if sin < -0.45:  # seen from behind: hair instead of a face
        sketch.add(person.hair, disc(shifted(0.0, 0.0), 0.84 * radius, 0.86 * radius), front + 5e-4)
    else:
        face = shifted(0.3 * cos, 0.3)
        sketch.add(person.skin, disc(face, (0.5 + 0.2 * abs(sin)) * radius, 0.62 * radius), front + 2e-3)
    if person.hat is not None:
        brim = shifted(0.45 * cos, -0.45)
        sketch.add(person.hat, disc(brim, 0.85 * radius, 0.2 * radius), front + 3e-3, 0.7)


def draw_shapes(draw: Any, shapes: list[Shape], frame: int, *, colour: int | None = None) -> None:
    """Draw one frame of a figure, far parts first; `colour` replaces all colours (for masks)."""
    for shape in sorted(shapes, key=lambda s: s.depth[frame]):
        draw.polygon(shape.outlines[frame], fill=shape.colour if colour is None else colour)
        if shape.edge is not None:
            draw.polygon(shape.outlines[frame], outline=shape.edge if colour is None else colour)


def draw_shadow(draw: Any, figure: Figure, frame: int, colour: Colour) -> None:
    """The dark patch on the ground below a figure."""
    x, y = figure.ground_T2[frame] * SUPERSAMPLE
    half = 0.16 * figure.scale_T[frame] * SUPERSAMPLE
    draw.ellipse((x - 1.15 * half, y - 0.24 * half, x + 1.15 * half, y + 0.3 * half), fill=colour)


def bounding_box(shapes: list[Shape], frame: int, width: int, height: int) -> tuple[int, int, int, int] | None:
    """Tight box x1,y1,x2,y2 (end exclusive) in frame pixels of a figure drawn alone; None if it is out of the frame."""
    mask = Image.new("L", (width * SUPERSAMPLE, height * SUPERSAMPLE))
    draw_shapes(ImageDraw.Draw(mask), shapes, frame, colour=255)
    box = mask.getbbox()
    if box is None:
        return None
    x1, y1, x2, y2 = box
    return (x1 // SUPERSAMPLE, y1 // SUPERSAMPLE, -(-x2 // SUPERSAMPLE), -(-y2 // SUPERSAMPLE))
