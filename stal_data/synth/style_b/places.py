"""Random places for the people of a scene: within the picture, at its edge or in a door, and facing each other."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stal_data.synth.clip import KEY_SECONDS, RATE
from stal_data.synth.skeleton import TILT
from stal_data.synth.style_b.acts import INSIDE, Act
from stal_data.synth.style_b.camera import Camera
from stal_data.synth.style_b.cast import Unit

# Indexes of the key frames.
KEY_FRAMES = [second * RATE for second in KEY_SECONDS]

# Rows of the stage where people stand, and the height of an adult in the nearest one, in pixels.
_FARTHEST, _NEAREST, _TALLEST = 142.0, 192.0, 96.0

# Body heights between two who reach out to each other.
_ARMS_LENGTH = 0.6


@dataclass(frozen=True, slots=True)
class Perspective:
    """How large people are in each row of the stage."""

    horizon: float

    def scale(self, row: NDArray[np.float64] | float) -> NDArray[np.float64]:
        """Pixels of the stage per adult's body height of somebody whose feet are at this row."""
        return np.asarray((np.asarray(row) - self.horizon) * _TALLEST / (_NEAREST - self.horizon))


@dataclass(slots=True, kw_only=True)
class Place:
    """Where somebody is at the anchor of the act's path.

    step: the path's direction on the screen, +1 right. scale: pixels of the stage per body height of this person.
    """

    act: Act
    unit: Unit
    x: float
    row: float
    scale: float
    heading: float
    step: float = 1.0

    @property
    def side(self) -> int:
        """The arm that is nearer to the camera: 0 left, 1 right."""
        return int(np.cos(self.heading) > 0)

    @property
    def x_T(self) -> NDArray[np.float64]:
        return self.x + self.step * self.act.path_T * self.scale


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """obstacles: x, row, pixels per adult's body height of each."""

    places: list[Place]
    obstacles: list[tuple[float, float, float]]


def draw_layout(
    units: list[Unit],
    heights: list[float],
    num_obstacles: int,
    camera: Camera,
    view: Perspective,
    rng: np.random.Generator,
) -> Layout:
    """Random places for everybody. heights: each person's, relative to an adult's."""
    left, right = _always_seen(camera)
    places: list[Place] = []
    for unit in units:
        row = float(rng.uniform(_FARTHEST, _NEAREST))
        adult = float(view.scale(row))
        mine = [adult * heights[len(places) + i] for i in range(len(unit.acts))]
        if len(unit.acts) == 2:
            places += _pair(unit, row, mine, left, right, rng)
            continue
        (act,), (scale,) = unit.acts, mine
        place = Place(act=act, unit=unit, x=0.0, row=row, scale=scale, heading=_facing(act, unit, rng))
        place.step = float(rng.choice([-1.0, 1.0]))
        if unit.kind == "edge":
            crossing = int(np.argmin(np.abs(act.path_T)))
            place.x = camera.view(crossing)[0 if place.step > 0 else 2]
        elif unit.kind == "door":
            place.x = _between(left + 0.1 * scale, right - 0.1 * scale, rng)
            place.step = 1.0 if place.x < (left + right) / 2 else -1.0
        else:
            reach = 0.5 if act.fall_T.any() else INSIDE if act.path_T.any() else 0.12
            reach += float(np.abs(act.path_T[KEY_FRAMES]).max())
            place.x = _between(left + reach * scale, right - reach * scale, rng)
        if act.path_T.any() and unit.kind == "free":
            _face_along(place, rng)
        places.append(place)
    obstacles = []
    for _ in range(num_obstacles):
        row = float(rng.uniform(_FARTHEST, _NEAREST + 4))
        obstacles.append((float(rng.uniform(left, right)), row, float(view.scale(row))))
    return Layout(places=places, obstacles=obstacles)


def _between(low: float, high: float, rng: np.random.Generator) -> float:
    return float(rng.uniform(low, high)) if low < high else (low + high) / 2


def _always_seen(camera: Camera) -> tuple[float, float]:
    views = [camera.view(frame) for frame in KEY_FRAMES]
    return max(view[0] for view in views), min(view[2] for view in views)


def _facing(act: Act, unit: Unit, rng: np.random.Generator) -> float:
    """A heading that tells nothing about the direction of what happens; those who sit or wave face the camera."""
    if unit.kind in ("door", "edge"):
        return float(rng.choice([np.pi / 2, -np.pi / 2], p=[0.65, 0.35]) + rng.uniform(-0.5, 0.5))
    if act.sit_T.any() or act.wave_T.any() or act.hold_T.any():
        return float(np.pi / 2 + rng.uniform(-1.1, 1.1))
    if act.fall_T.any():
        return float(rng.choice([0.0, np.pi]) + rng.uniform(-0.5, 0.5))
    return float(rng.uniform(-np.pi, np.pi))


def _face_along(place: Place, rng: np.random.Generator) -> None:
    """Most walk forwards, some to the side."""
    if rng.random() < 0.3:
        place.heading = float(rng.choice([np.pi / 2, -np.pi / 2]) + rng.uniform(-0.5, 0.5))
        return
    forwards = place.step * np.sign(place.act.path_T[-1] - place.act.path_T[0])
    place.heading = float((0.0 if forwards > 0 else np.pi) + rng.uniform(-0.35, 0.35))


def _pair(
    unit: Unit, row: float, scales: list[float], left: float, right: float, rng: np.random.Generator
) -> list[Place]:
    """Two who face each other at arms' length; which one is on the left is drawn."""
    turn = float(rng.uniform(-0.4, 0.4) + rng.choice([0.0, np.pi]))
    apart = _ARMS_LENGTH * sum(scales) / 2
    reach = apart / 2 + 0.15 * scales[0]
    x = _between(left + reach, right - reach, rng)
    places = []
    for index, act in enumerate(unit.acts):
        sign = -1.0 if index == 0 else 1.0
        place = Place(
            act=act,
            unit=unit,
            x=x + sign * apart / 2 * np.cos(turn),
            row=row + sign * apart / 2 * np.sin(turn) * TILT,
            scale=scales[index],
            heading=turn if index == 0 else turn + np.pi,
        )
        places.append(place)
    return places
