"""One synthetic video: its annotations, and its frames. Everything follows from (seed, split, number)."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageDraw

from stal_data.synth.backdrop import MARGIN, draw_backdrop, random_light
from stal_data.synth.classes import class_id
from stal_data.synth.figure import SUPERSAMPLE, Shape, bounding_box, draw_shadow, draw_shapes, make_shapes
from stal_data.synth.scene import HEIGHT, KEY_SECONDS, NUM_FRAMES, RATE, WIDTH, Scene, plan_scene

SPLITS = ("train", "test")
_NOISE_PATTERNS = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Annotation:
    """One person with one label at one key frame; box x1,y1,x2,y2 in [0,1]; window as in AnnotatedKeyFrame."""

    video: str
    timestamp: int
    box: tuple[float, float, float, float]
    label_id: int
    person: int
    window: tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class SyntheticVideo:
    """A planned video. Its number decides the scenario; people, places and the street are its own, never shared."""

    seed: int
    split: str
    number: int

    @property
    def name(self) -> str:
        return f"synthetic_{self.split}_{self.number:04d}"

    def _streams(self) -> list[np.random.Generator]:
        """Independent streams for the plan, the street, the windows and the camera's noise."""
        root = np.random.SeedSequence([self.seed, SPLITS.index(self.split), self.number])
        return [np.random.default_rng(child) for child in root.spawn(4)]

    def plan(self) -> Scene:
        """Who does what where."""
        return plan_scene(self.number, self._streams()[0])

    def annotations(self, scene: Scene) -> list[Annotation]:
        """The labels of every key frame, without rendering: boxes come from the drawn figures alone."""
        _, street, windows, _ = self._streams()
        light = random_light(street)
        drawn = [make_shapes(actor.figure, light) for actor in scene.actors]
        found = []
        for timestamp in KEY_SECONDS:
            key_frame = timestamp * RATE + 1
            length = int(windows.integers(64, 91))
            start = key_frame - length // 2
            for actor, shapes in zip(scene.actors, drawn, strict=True):
                pixels = bounding_box(shapes, key_frame - 1, WIDTH, HEIGHT)
                if pixels is None:
                    continue
                x1, y1, x2, y2 = pixels
                names = [actor.movement, *([actor.interaction] if actor.interaction else [])]
                found += [
                    Annotation(
                        video=self.name,
                        timestamp=timestamp,
                        box=(x1 / WIDTH, y1 / HEIGHT, x2 / WIDTH, y2 / HEIGHT),
                        label_id=class_id(name),
                        person=actor.person_id,
                        window=(start, start + length),
                    )
                    for name in names
                ]
        return found

    def frames(self, scene: Scene) -> Iterator[NDArray[np.uint8]]:
        """The frames in order, RGB [H, W, 3]."""
        _, street, _, camera = self._streams()
        light = random_light(street)
        backdrop = draw_backdrop(WIDTH, HEIGHT, scene.horizon, light, street)
        ground = np.asarray(backdrop)[-40:].mean(axis=(0, 1)) * 0.62
        shadow = (int(ground[0]), int(ground[1]), int(ground[2]))
        drawn: list[list[Shape]] = [make_shapes(actor.figure, light) for actor in scene.actors]
        noise = _noise_patterns(camera)
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
            grain = ImageChops.offset(noise[camera.integers(_NOISE_PATTERNS)], 0, int(camera.integers(HEIGHT)))
            # Saturating: picture + (128 + noise) - 128.
            yield np.asarray(ImageChops.add(canvas.reduce(SUPERSAMPLE), grain, scale=1, offset=-128))


def _noise_patterns(rng: np.random.Generator) -> list[Image.Image]:
    """Sensor noise as RGB pictures, 128 where there is none; a frame takes one, rolled by a random number of rows."""
    strength = rng.uniform(0.3, 0.8)
    noise = rng.normal(128, strength, size=(_NOISE_PATTERNS, HEIGHT, WIDTH, 3))
    return [Image.fromarray(pattern) for pattern in np.round(noise).astype(np.uint8)]
