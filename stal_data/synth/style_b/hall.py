"""The hall behind the people of style b: wall, windows, posters, floor; drawn once a video for the whole stage."""

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from stal_data.synth.backdrop import pick, texture
from stal_data.synth.figure import SUPERSAMPLE, Light, shade
from stal_data.synth.style_b.camera import STAGE_HEIGHT, STAGE_WIDTH

_SIZE = (STAGE_WIDTH * SUPERSAMPLE, STAGE_HEIGHT * SUPERSAMPLE)


def draw_hall(light: Light, rng: np.random.Generator) -> Image.Image:
    """An RGB picture of the stage, supersampled."""
    image = Image.new("RGB", _SIZE)
    draw = ImageDraw.Draw(image)
    line = int(rng.integers(100, 124)) * SUPERSAMPLE
    _wall(draw, line, light, rng)
    x = int(rng.integers(0, 80))
    while x < _SIZE[0]:
        wide = int(rng.integers(50, 150))
        kind = rng.choice(["window", "poster", "door", "board", "nothing"])
        if kind != "nothing":
            _fixture(draw, str(kind), x, wide, line, light, rng)
        x += wide + int(rng.integers(16, 90))
    _floor(draw, line, light, rng)
    return texture(image.filter(ImageFilter.GaussianBlur(1.0)), line, rng)


def _wall(draw: ImageDraw.ImageDraw, line: int, light: Light, rng: np.random.Generator) -> None:
    wall = pick(rng, (206, 200, 186), (170, 186, 190), (190, 164, 150), (150, 158, 140), (128, 132, 150))
    for y in range(0, line, 4):
        draw.rectangle((0, y, _SIZE[0], y + 4), fill=shade(wall, light, 0.8 + 0.2 * y / line))
    kind = rng.choice(["panels", "tiles", "plain"])
    if kind == "panels":
        for x in range(int(rng.integers(0, 60)), _SIZE[0], int(rng.integers(60, 140))):
            draw.line((x, 0, x, line), fill=shade(wall, light, 0.72), width=3)
    elif kind == "tiles":
        step = int(rng.integers(20, 40))
        for y in range(0, line, step):
            draw.line((0, y, _SIZE[0], y), fill=shade(wall, light, 0.78), width=1)
        for x in range(0, _SIZE[0], step):
            draw.line((x, 0, x, line), fill=shade(wall, light, 0.78), width=1)
    band = pick(rng, (110, 60, 50), (60, 84, 110), (90, 90, 84), (150, 130, 80))
    top = line - int(rng.integers(10, 70))
    draw.rectangle((0, top, _SIZE[0], line), fill=shade(band, light))


def _fixture(
    draw: ImageDraw.ImageDraw, kind: str, x: int, wide: int, line: int, light: Light, rng: np.random.Generator
) -> None:
    colour = pick(rng, (180, 60, 50), (60, 100, 160), (220, 190, 70), (80, 140, 90), (230, 228, 220))
    if kind == "window":
        top, low = int(rng.integers(10, 40)), line - int(rng.integers(50, 90))
        draw.rectangle((x - 4, top - 4, x + wide + 4, low + 4), fill=shade((232, 230, 224), light))
        draw.rectangle((x, top, x + wide, low), fill=shade(pick(rng, (170, 200, 226), (196, 206, 210)), light, 1.1))
        draw.line((x + wide // 2, top, x + wide // 2, low), fill=shade((232, 230, 224), light), width=5)
    elif kind == "door":
        draw.rectangle((x, line - 150, x + 66, line), fill=shade(colour, light, 0.7))
        draw.rectangle((x + 5, line - 145, x + 61, line), fill=shade(colour, light, 0.9))
    elif kind == "poster":
        top = line - int(rng.integers(110, 150))
        draw.rectangle((x, top, x + 46, top + 66), fill=shade(colour, light))
        draw.ellipse((x + 10, top + 10, x + 36, top + 36), fill=shade(pick(rng, (230, 220, 200), (40, 40, 50)), light))
        draw.rectangle((x + 6, top + 46, x + 40, top + 52), fill=shade((240, 240, 236), light))
    else:
        draw.rectangle((x, 12, x + wide, 44), fill=shade((36, 40, 48), light))
        for y in (20, 30):
            draw.rectangle((x + 8, y, x + wide - int(rng.integers(10, 40)), y + 4), fill=shade((240, 200, 80), light))


def _floor(draw: ImageDraw.ImageDraw, line: int, light: Light, rng: np.random.Generator) -> None:
    stone = pick(rng, (168, 160, 150), (130, 122, 116), (150, 120, 92), (112, 124, 132), (190, 184, 170))
    for y in range(line, _SIZE[1], 4):
        near = (y - line) / (_SIZE[1] - line)
        draw.rectangle((0, y, _SIZE[0], y + 4), fill=shade(stone, light, 0.8 + 0.25 * near))
    vanish, factor = rng.uniform(0.2, 0.8) * _SIZE[0], float(rng.uniform(0.86, 0.95))
    horizon = line - 80
    for bottom in np.arange(-2.0, 3.0, float(rng.uniform(0.08, 0.2))) * _SIZE[0]:
        share = (line - horizon) / (_SIZE[1] - horizon)
        draw.line(
            (vanish + (bottom - vanish) * share, line, bottom, _SIZE[1]), fill=shade(stone, light, factor), width=2
        )
    if rng.random() < 0.7:
        for step in range(1, 8):
            y = line + (_SIZE[1] - line) * (step / 8) ** 1.5
            draw.line((0, y, _SIZE[0], y), fill=shade(stone, light, factor), width=2)
    draw.rectangle((0, line - 5, _SIZE[0], line + 2), fill=shade(stone, light, 0.6))
