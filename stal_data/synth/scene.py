"""What happens in a video of style a: who is there, doing what, where, and towards whom.

Scenarios come in pairs, an interaction and its look-alike, and share their code for places, headings, speeds and
clothes, so that only the company tells them apart: greeting and waving at nobody who waves back, chasing and running
alone, watching somebody jump and standing about.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stal_data.synth.actions import make_motion
from stal_data.synth.classes import CARRIER
from stal_data.synth.clip import HEIGHT, KEY_SECONDS, NUM_FRAMES, RATE, WIDTH
from stal_data.synth.person import Person, random_person
from stal_data.synth.skeleton import TILT, Figure, Placement, make_figure

# One scenario a video, in turn. The order spreads them, so that any long enough run of videos is balanced: 60 videos
# hold every class at least eight times, which makes 24 key-frame instances.
SCENARIOS = (
    "exercise", "wave_alone", "run_alone", "watch", "chase", "greet", "idle", "wave_alone",
    "run_alone", "watch", "chase", "greet", "exercise", "wave_alone", "run_alone",
)  # fmt: skip

# Other people of a scene, in turn by the video's number.
_BYSTANDERS = ("stand", "punch", "walk", "bow", "crouch")


@dataclass(frozen=True, slots=True, kw_only=True)
class Actor:
    """A person with what it does; person_id counts from 1 within the video."""

    person_id: int
    movement: str
    interaction: str | None
    figure: Figure


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """A planned video. horizon: pixel row of the horizon; sway_T2: shift of the picture in pixels, from the hand-held
    camera, already part of the figures."""

    scenario: str
    actors: tuple[Actor, ...]
    horizon: float
    sway_T2: NDArray[np.float64]


@dataclass(slots=True, kw_only=True)
class _Part:
    """A role before it has a place: `facing` is the index of the part that it turns to."""

    movement: str
    interaction: str | None = None
    facing: int | None = None
    x: float = 0.0
    y: float = 0.0
    heading: float = 0.0
    speed: float = 0.0
    """Pixels a second along the screen, signed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Camera:
    horizon: float
    gain: float

    def scale(self, y: NDArray[np.float64] | float) -> NDArray[np.float64]:
        """Pixels per adult's body height of somebody whose feet are at row y."""
        return np.asarray((np.asarray(y) - self.horizon) * self.gain)


def plan_scene(number: int, rng: np.random.Generator) -> Scene:
    """Plan video `number` of a split; the scenario follows from the number, everything else from `rng`."""
    scenario = SCENARIOS[number % len(SCENARIOS)]
    camera = _Camera(horizon=float(rng.uniform(40, 62)), gain=float(rng.uniform(0.95, 1.1)))
    parts = _cast(scenario, number, rng)
    people = [random_person(rng) for _ in parts]
    _place_movers(parts, camera, rng)
    _place_standing(parts, camera, rng)
    _turn(parts, rng)
    time_T = np.arange(NUM_FRAMES) / RATE
    sway_T2 = _sway(time_T, rng)
    actors = []
    for index, (part, person) in enumerate(zip(parts, people, strict=True)):
        placement = _placement(part, person, camera, time_T, sway_T2)
        figure = make_figure(person, make_motion(part.movement, rng, time_T), placement)
        actors.append(Actor(person_id=index + 1, movement=part.movement, interaction=part.interaction, figure=figure))
    return Scene(scenario=scenario, actors=tuple(actors), horizon=camera.horizon, sway_T2=sway_T2)


def _cast(scenario: str, number: int, rng: np.random.Generator) -> list[_Part]:
    turn = number // len(SCENARIOS) + number
    others = [_Part(movement=_BYSTANDERS[(turn + i) % len(_BYSTANDERS)]) for i in range(4)]
    if scenario == "watch":
        parts = [_Part(movement="jump") for _ in range(1 + int(rng.random() < 0.5))]
        watchers = [_Part(movement=CARRIER["watch"], interaction="watch", facing=0) for _ in range(rng.integers(1, 4))]
        passers = [_Part(movement="walk")] if len(parts) + len(watchers) < 5 and rng.random() < 0.35 else []
        return parts + watchers + passers
    if scenario == "greet":
        pair = [_Part(movement=CARRIER["greet"], interaction="greet", facing=1 - i) for i in range(2)]
        return pair + others[: rng.integers(0, 3)]
    if scenario == "wave_alone":
        # Waves at somebody, who does not wave back.
        company = others[: rng.choice(4, p=[0.1, 0.3, 0.4, 0.2])]
        return [_Part(movement="wave", facing=1 if company else None), *company]
    if scenario == "chase":
        pair = [_Part(movement=CARRIER[name], interaction=name) for name in ("chase", "flee")]
        return pair + others[: rng.integers(0, 3)]
    if scenario == "run_alone":
        return [_Part(movement="run"), *others[: rng.choice(4, p=[0.1, 0.3, 0.4, 0.2])]]
    if scenario == "idle":
        return [_Part(movement="stand") for _ in range(rng.integers(2, 5))] + others[: rng.integers(0, 2)]
    parts = [_Part(movement=name) for name in ("punch", "bow", "crouch", "walk")]
    return parts + [_Part(movement="jump")] * int(rng.random() < 0.5)


def _place_movers(parts: list[_Part], camera: _Camera, rng: np.random.Generator) -> None:
    """Paths across the screen that are inside the frame at every key frame.

    A lone runner takes one of the two places of a pair whose other half is absent.
    """
    margin = 24.0
    reach = (KEY_SECONDS[-1] - KEY_SECONDS[0]) / 2
    runners = [part for part in parts if part.movement == "run"]
    if runners:
        y, direction = _lane(camera, rng), float(rng.choice([-1.0, 1.0]))
        gap = rng.uniform(0.5, 1.0) * float(camera.scale(y))
        speed = min(rng.uniform(60, 105), (WIDTH / 2 - margin - gap / 2 - 4) / reach)
        room = WIDTH / 2 - margin - gap / 2 - speed * reach
        centre = WIDTH / 2 + rng.uniform(-room, room)
        slant = rng.uniform(-0.3, 0.3)
        ahead = {"flee": 1.0, "chase": -1.0, None: float(rng.choice([-1.0, 1.0]))}
        for part in runners:
            part.x, part.y = centre + direction * ahead[part.interaction] * gap / 2, y + rng.uniform(-3, 3)
            part.speed, part.heading = direction * speed, _heading(direction, slant)
    for part in parts:
        if part.movement == "walk":
            direction = float(rng.choice([-1.0, 1.0]))
            speed = rng.uniform(24, 44)
            room = WIDTH / 2 - margin - speed * reach
            part.x, part.y = WIDTH / 2 + rng.uniform(-room, room), _lane(camera, rng)
            part.speed, part.heading = direction * speed, _heading(direction, rng.uniform(-0.35, 0.35))


def _heading(direction: float, slant: float) -> float:
    return slant if direction > 0 else np.pi - slant


def _lane(camera: _Camera, rng: np.random.Generator) -> float:
    """Row of the feet: near enough to be seen, far enough for the head to fit into the frame."""
    nearest = min(HEIGHT - 6.0, camera.horizon + 124 / camera.gain)
    farthest = camera.horizon + 82 / camera.gain
    return float(rng.uniform(farthest, nearest))


def _place_standing(parts: list[_Part], camera: _Camera, rng: np.random.Generator) -> None:
    """Places next to each other: the best of some random draws, by the smallest distance on the screen."""
    still = [part for part in parts if part.movement not in ("run", "walk")]
    if not still:
        return
    best, best_gap = None, -1.0
    for _ in range(40):
        xs = rng.uniform(30, WIDTH - 30, size=len(still))
        gaps = np.diff(np.sort(xs))
        gap = float(gaps.min()) if len(gaps) else np.inf
        if gap > best_gap:
            best, best_gap = xs, gap
    assert best is not None
    for part, x in zip(still, best, strict=True):
        part.x, part.y = float(x), _lane(camera, rng)


def _turn(parts: list[_Part], rng: np.random.Generator) -> None:
    """Headings of those who stay: towards whom they mean, else towards anybody, sometimes nobody."""
    for index, part in enumerate(parts):
        if part.movement in ("run", "walk"):
            continue
        company = [i for i in range(len(parts)) if i != index]
        target = part.facing
        if target is None and company and rng.random() < 0.75:
            target = int(rng.choice(company))
        if target is None:
            part.heading = float(rng.uniform(-np.pi, np.pi))
        else:
            # Half the true depth: on stage, people turn a little to the audience.
            dx, dy = parts[target].x - part.x, (parts[target].y - part.y) * 0.5 / TILT
            part.heading = float(np.arctan2(dy, dx) + rng.normal(0, 0.25))


def _sway(time_T: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    """Slow drift of a hand-held camera, in half pixels; most cameras stand on a tripod."""
    amplitude = rng.uniform(0.5, 2.0) if rng.random() < 0.4 else 0.0
    rates, phases = rng.uniform(0.3, 1.1, size=2), rng.uniform(0, 6, size=2)
    drift = amplitude * np.sin(2 * np.pi * rates * time_T[:, None] + phases)
    return np.round(drift * 2) / 2


def _placement(
    part: _Part, person: Person, camera: _Camera, time_T: NDArray[np.float64], sway_T2: NDArray[np.float64]
) -> Placement:
    middle = KEY_SECONDS[len(KEY_SECONDS) // 2]
    x_T = part.x + part.speed * (time_T - middle)
    slope = np.tan(part.heading) * TILT if part.speed else 0.0
    y_T = part.y + slope * (x_T - part.x)
    return Placement(
        x_T=x_T + sway_T2[:, 0],
        y_T=y_T + sway_T2[:, 1],
        scale_T=camera.scale(y_T) * person.height,
        heading=part.heading,
    )
