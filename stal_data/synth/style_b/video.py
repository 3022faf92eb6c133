"""A video of style b: planned, drawn from far to near, and what can be seen of each person."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from stal_data.synth.base import Seen, Video
from stal_data.synth.clip import HEIGHT, KEY_SECONDS, NUM_FRAMES, RATE, WIDTH
from stal_data.synth.figure import SUPERSAMPLE, Shape, draw_shadow, draw_shapes
from stal_data.synth.noise import Noise
from stal_data.synth.style_b.classes import CLASSES
from stal_data.synth.style_b.drawing import draw_body
from stal_data.synth.style_b.hall import draw_hall
from stal_data.synth.style_b.scene import Scene, plan_scene

_CANVAS = (WIDTH * SUPERSAMPLE, HEIGHT * SUPERSAMPLE)

# A person of whom less can be seen has no box.
LEAST_SEEN = 0.15

_NOBODY = 255


class HallVideo(Video[Scene]):
    """Its number decides the scenario. Boxes are of what can be seen of a person."""

    classes = CLASSES
    entropy = (1,)

    def plan(self) -> Scene:
        return plan_scene(self.number, self.streams()[0])

    def seen(self, scene: Scene) -> Iterator[list[Seen]]:
        layers = _layers(scene)
        figures = {owner: shapes for owner, shapes in layers if owner != _NOBODY}
        for index, timestamp in enumerate(KEY_SECONDS):
            who = _visible(layers, timestamp * RATE)
            people = []
            for actor in scene.actors:
                whole = _size_alone(figures[actor.person_id], timestamp * RATE)
                box = _box(who == actor.person_id, whole)
                if box is not None:
                    people.append(Seen(person_id=actor.person_id, box=box, classes=actor.act.classes[index]))
            yield people

    def frames(self, scene: Scene) -> Iterator[NDArray[np.uint8]]:
        _, hall, _, camera = self.streams()
        backdrop = draw_hall(scene.light, hall)
        floor = np.asarray(backdrop)[-60:].mean(axis=(0, 1)) * 0.6
        shadow = (int(floor[0]), int(floor[1]), int(floor[2]))
        layers, noise = _layers(scene), Noise(camera)
        for index in range(NUM_FRAMES):
            left, top, right, bottom = (edge * SUPERSAMPLE for edge in scene.camera.view(index))
            # Nearest: `reduce` below smooths, and it takes a tenth of the time.
            canvas = backdrop.resize(_CANVAS, Image.Resampling.NEAREST, box=(left, top, right, bottom))
            draw = ImageDraw.Draw(canvas)
            for actor in scene.actors:
                draw_shadow(draw, actor.figure, index, shadow)
            for _, shapes in layers:
                draw_shapes(draw, shapes, index)
            yield noise.add(canvas.reduce(SUPERSAMPLE))


Layers = list[tuple[int, list[Shape]]]


def _layers(scene: Scene) -> Layers:
    """Everybody (by person id) and everything (_NOBODY) that is drawn, the farthest first."""
    rows = [(prop.row, _NOBODY, prop.shapes(scene.camera, scene.light)) for prop in scene.props]
    rows += [(a.row, a.person_id, draw_body(a.body, a.figure, scene.light)) for a in scene.actors]
    rows += [(row, _NOBODY, shapes) for row, shapes in scene.parcels]
    return [(owner, shapes) for _, owner, shapes in sorted(rows, key=lambda item: item[0])]


def _visible(layers: Layers, frame: int) -> NDArray[np.uint8]:
    """Whose pixels the supersampled picture shows: person ids, or 0 or 255 where there is nobody."""
    picture = Image.new("L", _CANVAS)
    draw = ImageDraw.Draw(picture)
    for owner, shapes in layers:
        draw_shapes(draw, shapes, frame, colour=owner)
    return np.asarray(picture)


def _box(seen: NDArray[np.bool_], whole: int) -> tuple[int, int, int, int] | None:
    """The tight box in the frame's pixels (end exclusive) of enough seen pixels, of `whole` supersampled ones."""
    if seen.sum() < max(LEAST_SEEN * whole, 1):
        return None
    rows, columns = np.flatnonzero(seen.any(axis=1)), np.flatnonzero(seen.any(axis=0))
    start = (int(columns[0]) // SUPERSAMPLE, int(rows[0]) // SUPERSAMPLE)
    return (*start, int(columns[-1]) // SUPERSAMPLE + 1, int(rows[-1]) // SUPERSAMPLE + 1)


def _size_alone(shapes: list[Shape], frame: int) -> int:
    """Supersampled pixels of a person whom nothing hides, beyond the frame as well."""
    outlines = [np.array(shape.outlines[frame]).reshape(-1, 2) for shape in shapes]
    corners = np.concatenate(outlines)
    low = np.floor(corners.min(axis=0)) - 1
    wide, tall = (int(size) for size in np.ceil(corners.max(axis=0) - low) + 2)
    picture = Image.new("1", (wide, tall))
    draw = ImageDraw.Draw(picture)
    for outline in outlines:
        draw.polygon((outline - low).ravel().tolist(), fill=1)
    return int(np.asarray(picture).sum())
