"""A video of style a: a static or swaying camera in a street."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from PIL import ImageDraw

from stal_data.synth.backdrop import MARGIN, draw_backdrop, random_light
from stal_data.synth.base import Seen, Video
from stal_data.synth.classes import CLASSES
from stal_data.synth.clip import HEIGHT, KEY_SECONDS, NUM_FRAMES, RATE, WIDTH
from stal_data.synth.figure import SUPERSAMPLE, Shape, bounding_box, draw_shadow, draw_shapes, make_shapes
from stal_data.synth.noise import Noise
from stal_data.synth.scene import Scene, plan_scene


class StreetVideo(Video[Scene]):
    """Its number decides the scenario. Boxes are of a person's full extent within the frame."""

    classes = CLASSES
    entropy = ()

    def plan(self) -> Scene:
        return plan_scene(self.number, self.streams()[0])

    def seen(self, scene: Scene) -> Iterator[list[Seen]]:
        light = random_light(self.streams()[1])
        drawn = [make_shapes(actor.figure, light) for actor in scene.actors]
        for timestamp in KEY_SECONDS:
            people = []
            for actor, shapes in zip(scene.actors, drawn, strict=True):
                box = bounding_box(shapes, timestamp * RATE, WIDTH, HEIGHT)
                if box is not None:
                    names = (actor.movement, *([actor.interaction] if actor.interaction else []))
                    people.append(Seen(person_id=actor.person_id, box=box, classes=names))
            yield people

    def frames(self, scene: Scene) -> Iterator[NDArray[np.uint8]]:
        _, street, _, camera = self.streams()
        light = random_light(street)
        backdrop = draw_backdrop(WIDTH, HEIGHT, scene.horizon, light, street)
        ground = np.asarray(backdrop)[-40:].mean(axis=(0, 1)) * 0.62
        shadow = (int(ground[0]), int(ground[1]), int(ground[2]))
        drawn: list[list[Shape]] = [make_shapes(actor.figure, light) for actor in scene.actors]
        noise = Noise(camera)
        for index in range(NUM_FRAMES):
            dx, dy = (MARGIN - scene.sway_T2[index]) * SUPERSAMPLE
            left, top = round(float(dx)), round(float(dy))
            canvas = backdrop.crop((left, top, left + WIDTH * SUPERSAMPLE, top + HEIGHT * SUPERSAMPLE))
            draw = ImageDraw.Draw(canvas)
            far_first = sorted(range(len(drawn)), key=lambda i: float(scene.actors[i].figure.ground_T2[index, 1]))
            for i in far_first:
                draw_shadow(draw, scene.actors[i].figure, index, shadow)
            for i in far_first:
                draw_shapes(draw, drawn[i], index)
            yield noise.add(canvas.reduce(SUPERSAMPLE))
