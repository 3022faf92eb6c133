"""The street behind the people: sky, houses, trees, pavement, parked cars; drawn once a video."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from stal_data.synth.figure import SUPERSAMPLE, Light, shade
from stal_data.synth.person import Colour

# Spare pixels on each side for the camera's sway, at the frame's resolution.
MARGIN = 4

# How much of the street's contrast the air takes: people stand out from it, as in front of a camera's focus.
HAZE = 0.3


def random_light(rng: np.random.Generator) -> Light:
    """Daylight, warm or cool, bright or dull."""
    warmth, level = rng.normal(0, 0.05), rng.uniform(0.78, 1.08)
    return Light(gain=(level * (1 + warmth), level, level * (1 - warmth)), side=float(rng.choice([-1.0, 1.0])))


def draw_backdrop(width: int, height: int, horizon: float, light: Light, rng: np.random.Generator) -> Image.Image:
    """An RGB picture of (width + 2 MARGIN) x (height + 2 MARGIN), supersampled."""
    size = ((width + 2 * MARGIN) * SUPERSAMPLE, (height + 2 * MARGIN) * SUPERSAMPLE)
    line = round((horizon + MARGIN) * SUPERSAMPLE)
    image = Image.new("RGB", size)
    draw = ImageDraw.Draw(image)
    _sky(draw, size, line, light, rng)
    kinds: list[Callable[..., None]] = [_houses, _trees_far, _wall]
    kinds[int(rng.choice(3, p=[0.55, 0.25, 0.2]))](draw, size, line, light, rng)
    _ground(draw, size, line, light, rng)
    for _ in range(int(rng.integers(1, 5))):
        kinds = [_tree, _lamp, _car, _bench, _bin]
        kinds[int(rng.integers(len(kinds)))](draw, size, line, light, rng)
    image = image.filter(ImageFilter.GaussianBlur(1.2))
    return texture(image, line, rng)


def pick(rng: np.random.Generator, *colours: Colour) -> Colour:
    """One of the colours, varied a little."""
    base = np.array(colours[int(rng.integers(len(colours)))]) * rng.uniform(0.85, 1.12) + rng.normal(0, 6, size=3)
    red, green, blue = (int(c) for c in np.clip(base, 0, 255))
    return (red, green, blue)


def _sky(draw: ImageDraw.ImageDraw, size: tuple[int, int], line: int, light: Light, rng: np.random.Generator) -> None:
    top, low = pick(rng, (120, 160, 210), (160, 175, 190), (200, 190, 180)), pick(rng, (215, 222, 228))
    for y in range(0, line, 2):
        mix = y / max(line, 1)
        colour = tuple(int(a * (1 - mix) + b * mix) for a, b in zip(top, low, strict=True))
        draw.rectangle((0, y, size[0], y + 2), fill=shade((colour[0], colour[1], colour[2]), light))


def _houses(
    draw: ImageDraw.ImageDraw, size: tuple[int, int], line: int, light: Light, rng: np.random.Generator
) -> None:
    x = -int(rng.integers(0, 60))
    while x < size[0]:
        wide, roof = int(rng.integers(90, 210)), int(rng.integers(-20, max(1, line // 2)))
        wall = pick(rng, (172, 140, 116), (188, 178, 160), (128, 122, 120), (150, 92, 76), (206, 196, 176))
        draw.rectangle((x, roof, x + wide, line + 8), fill=shade(wall, light))
        pane = pick(rng, (70, 84, 100), (108, 124, 138), (52, 54, 60))
        step_x, step_y = int(rng.integers(24, 40)), int(rng.integers(28, 44))
        for wx in range(x + 12, x + wide - 14, step_x):
            for wy in range(roof + 12, line - 24, step_y):
                draw.rectangle((wx, wy, wx + step_x // 2, wy + step_y // 2), fill=shade(pane, light))
        if rng.random() < 0.6:  # shop front
            draw.rectangle((x + 8, line - 34, x + wide - 8, line - 26), fill=shade(pick(rng, (150, 40, 40)), light))
            draw.rectangle((x + 12, line - 24, x + wide - 12, line + 6), fill=shade(pane, light, 0.8))
        x += wide + int(rng.choice([0, 0, 12]))


def _trees_far(
    draw: ImageDraw.ImageDraw, size: tuple[int, int], line: int, light: Light, rng: np.random.Generator
) -> None:
    leaf = pick(rng, (70, 100, 56), (96, 116, 70), (128, 108, 62))
    for _ in range(60):
        x, y, r = rng.uniform(0, size[0]), line - rng.uniform(0, 50), rng.uniform(14, 34)
        draw.ellipse((x - r, y - r, x + r, y + r), fill=shade(leaf, light, float(rng.uniform(0.7, 1.15))))


def _wall(draw: ImageDraw.ImageDraw, size: tuple[int, int], line: int, light: Light, rng: np.random.Generator) -> None:
    wall = pick(rng, (160, 152, 140), (136, 96, 80), (178, 170, 150), (104, 118, 126))
    top = int(rng.integers(0, max(2, line // 3)))
    draw.rectangle((0, top, size[0], line + 6), fill=shade(wall, light))
    course = int(rng.integers(12, 26))
    for y in range(top, line, course):
        draw.line((0, y, size[0], y), fill=shade(wall, light, 0.88), width=2)


def _ground(
    draw: ImageDraw.ImageDraw, size: tuple[int, int], line: int, light: Light, rng: np.random.Generator
) -> None:
    """Far pavement, then what people stand on: asphalt, flags, sand or grass, with lines towards the horizon."""
    stone = pick(rng, (150, 146, 140), (122, 120, 120), (164, 150, 130), (104, 126, 80), (186, 172, 142))
    for y in range(line, size[1], 4):
        near = (y - line) / (size[1] - line)
        draw.rectangle((0, y, size[0], y + 4), fill=shade(stone, light, 0.86 + 0.2 * near))
    kerb = line + int(rng.integers(12, 34))
    draw.rectangle(
        (0, line, size[0], kerb), fill=shade(pick(rng, (110, 108, 106), (90, 92, 96), (140, 134, 126)), light)
    )
    draw.rectangle((0, kerb, size[0], kerb + 4), fill=shade(stone, light, 1.15))
    if rng.random() < 0.6:  # flagstones
        vanish, gap = rng.uniform(0, size[0]), float(rng.uniform(0.18, 0.4))
        for k in np.arange(-6, 6, gap):
            draw.line((vanish, line, vanish + k * size[0], size[1] * 1.4), fill=shade(stone, light, 0.9), width=2)
        draw.rectangle((0, line, size[0], kerb), fill=shade(pick(rng, (110, 108, 106)), light))
        for k in range(1, 9):
            y = kerb + (size[1] - kerb) * (k / 8) ** 1.6
            draw.line((0, y, size[0], y), fill=shade(stone, light, 0.9), width=2)


def _spot(size: tuple[int, int], line: int, rng: np.random.Generator) -> tuple[int, int]:
    return int(rng.integers(0, size[0])), line + int(rng.integers(8, 48))


def _tree(draw: ImageDraw.ImageDraw, size: tuple[int, int], line: int, light: Light, rng: np.random.Generator) -> None:
    x, y = _spot(size, line, rng)
    bark, leaf = pick(rng, (88, 66, 48)), pick(rng, (74, 108, 56), (108, 124, 64), (150, 116, 60))
    tall = int(rng.integers(90, 170))
    draw.rectangle((x - 5, y - tall, x + 5, y), fill=shade(bark, light))
    for _ in range(22):
        cx, cy, r = x + rng.normal(0, 26), y - tall + rng.normal(0, 18), rng.uniform(10, 24)
        draw.ellipse((cx - r, cy - r, cx + r, cy + r), fill=shade(leaf, light, float(rng.uniform(0.7, 1.2))))


def _lamp(draw: ImageDraw.ImageDraw, size: tuple[int, int], line: int, light: Light, rng: np.random.Generator) -> None:
    x, y = _spot(size, line, rng)
    iron = shade(pick(rng, (60, 64, 66), (120, 120, 118)), light)
    draw.rectangle((x - 3, y - 190, x + 3, y), fill=iron)
    draw.rectangle((x - 14, y - 196, x + 14, y - 188), fill=iron)


def _car(draw: ImageDraw.ImageDraw, size: tuple[int, int], line: int, light: Light, rng: np.random.Generator) -> None:
    x, y = _spot(size, line, rng)
    paint = pick(rng, (170, 40, 40), (50, 76, 130), (196, 196, 194), (46, 48, 52), (120, 130, 96))
    draw.rounded_rectangle((x - 84, y - 38, x + 84, y - 10), radius=10, fill=shade(paint, light))
    roof = [(x - 50, y - 36), (x - 34, y - 62), (x + 32, y - 62), (x + 54, y - 36)]
    draw.polygon(roof, fill=shade(paint, light, 0.9))
    draw.polygon(
        [(x - 42, y - 38), (x - 30, y - 57), (x - 2, y - 57), (x - 2, y - 38)], fill=shade((70, 84, 96), light)
    )
    draw.polygon(
        [(x + 4, y - 38), (x + 4, y - 57), (x + 29, y - 57), (x + 45, y - 38)], fill=shade((70, 84, 96), light)
    )
    for wheel in (x - 50, x + 50):
        draw.ellipse((wheel - 15, y - 26, wheel + 15, y + 4), fill=shade((34, 34, 36), light))
        draw.ellipse((wheel - 6, y - 17, wheel + 6, y - 5), fill=shade((150, 150, 152), light))


def _bench(draw: ImageDraw.ImageDraw, size: tuple[int, int], line: int, light: Light, rng: np.random.Generator) -> None:
    x, y = _spot(size, line, rng)
    wood = pick(rng, (120, 84, 54), (96, 110, 96))
    for level in (44, 34, 20):
        draw.rectangle((x - 50, y - level, x + 50, y - level + 6), fill=shade(wood, light))
    for leg in (x - 42, x + 42):
        draw.rectangle((leg - 3, y - 44, leg + 3, y), fill=shade((70, 70, 72), light))


def _bin(draw: ImageDraw.ImageDraw, size: tuple[int, int], line: int, light: Light, rng: np.random.Generator) -> None:
    x, y = _spot(size, line, rng)
    metal = pick(rng, (70, 92, 74), (88, 88, 92), (140, 96, 50))
    draw.rounded_rectangle((x - 13, y - 42, x + 13, y), radius=4, fill=shade(metal, light))
    draw.rectangle((x - 15, y - 44, x + 15, y - 38), fill=shade(metal, light, 0.75))


def texture(image: Image.Image, line: int, rng: np.random.Generator) -> Image.Image:
    """Distance takes contrast; then grain of stone and plaster: soft blotches everywhere, a finer one on the ground."""
    mean = np.asarray(image).mean(axis=(0, 1))
    haze = Image.new("RGB", image.size, (int(mean[0]), int(mean[1]), int(mean[2])))
    pixels: NDArray[np.int16] = np.asarray(Image.blend(image, haze, HAZE)).astype(np.int16)
    tall, wide = pixels.shape[:2]
    small = Image.fromarray(rng.integers(0, 256, size=(tall // 24, wide // 24), dtype=np.uint8))
    blotches = np.asarray(small.resize((wide, tall), Image.Resampling.BICUBIC)).astype(np.int16) - 128
    grain = rng.integers(-3, 4, size=(tall, wide), dtype=np.int16)
    grain[:line] //= 3
    pixels += (blotches // 30 + grain)[:, :, None]
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
