"""Draw a person of style b: flat colours with a dark line around each part."""

import numpy as np

from stal_data.synth.figure import Light, Outline, Shape, Sketch, capsule, disc
from stal_data.synth.person import Colour
from stal_data.synth.skeleton import JOINTS, Figure
from stal_data.synth.style_b.body import Body

_EDGE = 0.55
_J = {name: index for index, name in enumerate(JOINTS)}
_EYE: Colour = (30, 26, 26)


def draw_body(body: Body, figure: Figure, light: Light) -> list[Shape]:
    """All shapes of a figure over its frames."""
    pen = _Pen(body, figure, light)
    for side in ("l", "r"):
        pen.leg(side)
        pen.arm(side)
    pen.trunk()
    pen.head()
    return pen.sketch.shapes


class _Pen:
    def __init__(self, body: Body, figure: Figure, light: Light) -> None:
        self.body, self.figure, self.person = body, figure, body.person
        self.sketch = Sketch(figure, light)
        self.unit = self.sketch.unit
        self.flat = np.zeros(len(self.unit))

    def part(self, colour: Colour, start: Outline, end: Outline, radii: tuple[float, float], depth: Outline) -> None:
        outline = capsule(start, end, radii[0] * self.unit, radii[1] * self.unit)
        self.sketch.add(colour, outline, depth, edge=_EDGE)

    def leg(self, side: str) -> None:
        hip, knee, ankle, toe = (self.sketch.at(f"{joint}_{side}") for joint in ("hip", "knee", "ankle", "toe"))
        # Behind the trunk, except a thigh that points at the camera.
        depth = 0.5 * (self.sketch.depth[:, _J[f"hip_{side}"]] + self.sketch.depth[:, _J[f"knee_{side}"]]) - 0.06
        thick, person = self.body.leg, self.person
        shin = person.bottom if person.bottom_kind == "trousers" and self.body.outfit != "dress" else person.skin
        self.part(person.shoes, ankle, toe, (0.034, 0.024), depth - 2e-3)
        self.part(shin, knee, ankle, (0.04 * thick, 0.03 * thick), depth - 1e-3)
        self.part(person.bottom, hip, knee, (0.056 * thick, 0.044 * thick), depth)

    def arm(self, side: str) -> None:
        shoulder, elbow, hand = (self.sketch.at(f"{joint}_{side}") for joint in ("shoulder", "elbow", "hand"))
        depth = 0.5 * self.sketch.depth[:, _J[f"shoulder_{side}"]] + 0.5 * self.sketch.depth[:, _J[f"hand_{side}"]]
        thick, person = self.body.arm, self.person
        upper = person.skin if self.body.outfit == "dress" else person.top
        lower = upper if person.sleeve == "long" else person.skin
        self.part(upper, shoulder, elbow, (0.036 * thick, 0.03 * thick), depth + 1e-2)
        self.part(lower, elbow, hand, (0.029 * thick, 0.023 * thick), depth + 1.2e-2)
        radius = 0.027 * self.unit
        self.sketch.add(person.skin, disc(hand + (hand - elbow) * 0.1, radius, radius), depth + 1.5e-2, edge=_EDGE)

    def trunk(self) -> None:
        person, body, sketch = self.person, self.body, self.sketch
        across, along = abs(np.sin(self.figure.heading)), abs(np.cos(self.figure.heading))
        chest, pelvis = sketch.at("chest"), sketch.at("pelvis")
        shoulder = float(np.hypot((person.shoulder + 0.02) * across, 0.07 * person.build * along))
        waist = float(np.hypot((person.hip + 0.04) * person.build * across, 0.066 * person.build * along))
        up = chest - pelvis
        high, low = chest - shoulder * self.unit[:, None] * _unit(up) * 0.7, pelvis + 0.12 * up
        hips = 0.5 * (sketch.at("hip_l") + sketch.at("hip_r"))
        self.part(person.skin, chest - 0.05 * up, sketch.at("head"), (0.032, 0.03), self.flat - 2e-3)
        self.part(person.bottom, low, hips, (waist, 0.85 * waist), self.flat - 1e-3)
        if body.outfit in ("coat", "dress"):
            knees = 0.5 * (sketch.at("knee_l") + sketch.at("knee_r"))
            hem = hips + (0.75 if body.outfit == "dress" else 0.5) * (knees - hips)
            self.part(person.top, low, hem, (waist, waist + 0.01), self.flat + 0.05)
        self.part(person.top, high, low, (shoulder, waist), self.flat)
        if body.outfit == "vest" and np.sin(self.figure.heading) > 0.2:
            front = 0.45 * across
            sketch.add(
                body.second,
                capsule(high, low, front * shoulder * self.unit, front * waist * self.unit),
                self.flat + 1e-3,
            )
        elif body.outfit == "bands":
            for share in (0.3, 0.6):
                width = (shoulder + (waist - shoulder) * share) * 0.9 * self.unit
                sketch.add(body.second, disc(high + share * (low - high), width, 0.022 * self.unit), self.flat + 1e-3)
        elif body.outfit == "coat":
            collar = chest - 0.06 * up
            sketch.add(body.second, disc(collar, 0.05 * self.unit, 0.03 * self.unit), self.flat + 2e-3)

    def head(self) -> None:
        person, sketch = self.person, self.sketch
        centre, radius = sketch.at("head"), self.body.segments.head * self.unit
        cos, sin = np.cos(self.figure.heading), np.sin(self.figure.heading)
        front = sketch.depth[:, _J["head"]] + 0.05

        def spot(x: float, y: float) -> Outline:
            return centre + np.array([x, y]) * radius[:, None]

        if person.long_hair:
            sketch.add(person.hair, disc(spot(-0.25 * cos, 0.6), 0.9 * radius, 1.25 * radius), front - 0.1 * sin)
        sketch.add(person.skin, disc(centre, 0.85 * radius, radius), front, edge=_EDGE)
        cover = person.hat or person.hair
        if sin < -0.3:
            sketch.add(person.hair, disc(spot(0.0, -0.05), 0.86 * radius, 0.95 * radius), front + 1e-3)
        sketch.add(cover, disc(spot(-0.25 * cos, -0.55), 0.85 * radius, 0.55 * radius), front + 2e-3, edge=_EDGE)
        if sin > -0.3:
            for across in (-0.33, 0.33):
                eye = spot(0.62 * cos + across * max(sin, 0.15), 0.05)
                sketch.add(_EYE, disc(eye, 0.1 * radius, 0.14 * radius), front + 3e-3)
        if person.hat is not None:
            sketch.add(person.hat, disc(spot(0.3 * cos, -0.42), 1.05 * radius, 0.16 * radius), front + 4e-3, 0.75)


def _unit(vectors: Outline) -> Outline:
    lengths: Outline = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / lengths
