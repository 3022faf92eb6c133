"""What happens in a video of style b, and where."""

from dataclasses import dataclass

import numpy as np

from stal_data.synth.backdrop import random_light
from stal_data.synth.figure import Light, Shape
from stal_data.synth.skeleton import TILT, Figure, Placement, make_figure
from stal_data.synth.style_b.acts import Act
from stal_data.synth.style_b.body import Body, random_body
from stal_data.synth.style_b.camera import Camera, plan_camera
from stal_data.synth.style_b.cast import cast
from stal_data.synth.style_b.hiding import hidden
from stal_data.synth.style_b.motion import make_motion, planted_shift
from stal_data.synth.style_b.places import Layout, Perspective, Place, draw_layout
from stal_data.synth.style_b.props import Prop, cabin, obstacle, parcel, seat

# Random layouts, of which the best is taken.
_DRAWS = 24


@dataclass(frozen=True, slots=True, kw_only=True)
class Actor:
    """A person with what it does; person_id counts from 1 within the video. figure: in pixels of the picture."""

    person_id: int
    act: Act
    body: Body
    figure: Figure
    row: float
    """Where it stands on the stage."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """A planned video. parcels: what is carried, with the row of the stage that it is in."""

    camera: Camera
    light: Light
    actors: tuple[Actor, ...]
    props: tuple[Prop, ...]
    parcels: tuple[tuple[float, list[Shape]], ...]


def plan_scene(number: int, rng: np.random.Generator) -> Scene:
    """Plan video `number` of a split; scenario and rare actions follow from the number, the rest from `rng`."""
    units = cast(number, rng)
    edge = any(unit.kind == "edge" for unit in units)
    # Somebody walks across the picture's edge: it must not overtake.
    camera = plan_camera(rng, most_pan=35.0 if edge else 120.0)
    light = random_light(rng)
    bodies = [random_body(rng) for unit in units for _ in unit.acts]
    view = Perspective(float(rng.uniform(48, 62)))
    heights, num_obstacles = [body.person.height for body in bodies], int(rng.choice(3, p=[0.3, 0.45, 0.25]))
    layouts = [draw_layout(units, heights, num_obstacles, camera, view, rng) for _ in range(_DRAWS)]
    layout = min(layouts, key=hidden)
    actors = tuple(
        Actor(
            person_id=index + 1,
            act=place.act,
            body=body,
            figure=camera.project_figure(_figure(place, body, rng)),
            row=place.row,
        )
        for index, (place, body) in enumerate(zip(layout.places, bodies, strict=True))
    )
    return Scene(
        camera=camera,
        light=light,
        actors=actors,
        props=tuple(_props(layout, rng)),
        parcels=tuple(_parcels(layout.places, actors, light, rng)),
    )


def _figure(place: Place, body: Body, rng: np.random.Generator) -> Figure:
    act, cos, sin = place.act, np.cos(place.heading), np.sin(place.heading)
    motion = make_motion(act, rng, side=place.side, travel=(place.step * cos, place.step * sin))
    # Who sits down or falls leaves the feet where they are.
    shift_T = planted_shift(motion, body.segments) * np.clip(act.sit_T + act.fall_T, 0, 1) * place.scale
    placement = Placement(
        x_T=place.x_T + cos * shift_T,
        y_T=place.row + sin * TILT * shift_T,
        scale_T=np.full(len(shift_T), place.scale),
        heading=place.heading,
    )
    return make_figure(body.person, motion, placement, body.segments)


def _props(layout: Layout, rng: np.random.Generator) -> list[Prop]:
    props = [obstacle(x, row, scale, rng) for x, row, scale in layout.obstacles]
    for place in layout.places:
        if place.act.sit_T.any():
            behind = -0.24 * place.scale
            x, row = place.x + np.cos(place.heading) * behind, place.row + np.sin(place.heading) * TILT * behind
            props.append(seat(x, min(row, place.row - 0.5), place.scale, rng))
        if place.unit.kind == "door":
            props += cabin(place.x, place.row, place.scale, place.step, rng)
    return props


def _parcels(
    places: list[Place], actors: tuple[Actor, ...], light: Light, rng: np.random.Generator
) -> list[tuple[float, list[Shape]]]:
    found = []
    carriers = [(p, a) for p, a in zip(places, actors, strict=True) if p.unit.kind == "parcel"]
    while carriers:
        unit = carriers[0][0].unit
        mine = [(p, a) for p, a in carriers if p.unit is unit]
        carriers = [pair for pair in carriers if pair[0].unit is not unit]
        holders = tuple((a.figure, p.side, a.act.hold_T) for p, a in mine)
        found.append((max(p.row for p, _ in mine) + 0.01, parcel(holders, light, rng)))
    return found
