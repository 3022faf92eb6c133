"""Who a synthetic person is: proportions, clothes, skin and hair. Nothing here knows what the person does."""

from dataclasses import dataclass

import numpy as np

Colour = tuple[int, int, int]

_SKIN: tuple[Colour, ...] = (
    (246, 215, 190),
    (232, 190, 158),
    (208, 160, 122),
    (172, 122, 86),
    (128, 86, 58),
    (92, 62, 44),
)
_HAIR: tuple[Colour, ...] = ((32, 26, 24), (62, 42, 30), (110, 74, 42), (176, 138, 82), (150, 148, 146), (124, 52, 30))
_SHOES: tuple[Colour, ...] = ((28, 28, 30), (70, 48, 34), (214, 214, 210), (150, 44, 40), (60, 70, 96))


@dataclass(frozen=True, slots=True, kw_only=True)
class Person:
    """Proportions are fractions of the body height; the height is relative to an adult's."""

    height: float
    build: float
    """Factor on the width of torso and limbs; 1 is average."""
    shoulder: float
    hip: float
    skin: Colour
    hair: Colour
    long_hair: bool
    hat: Colour | None
    top: Colour
    stripe: Colour | None
    sleeve: str
    """'long' or 'short'."""
    bottom: Colour
    bottom_kind: str
    """'trousers', 'shorts' or 'skirt'."""
    shoes: Colour
    backpack: Colour | None


def _cloth(rng: np.random.Generator) -> Colour:
    """A colour as clothes have it: any hue, mostly muted, from nearly black to nearly white."""
    hue, saturation = rng.uniform(0, 6), rng.beta(1.6, 2.0)
    value = rng.uniform(0.2, 0.95)
    red, green, blue = (value * (1 - saturation * _hue_distance(hue, centre)) for centre in (0.0, 2.0, 4.0))
    return (int(red * 255), int(green * 255), int(blue * 255))


def _hue_distance(hue: float, centre: float) -> float:
    """0 within one sixth of the circle around `centre`, 1 beyond two sixths."""
    distance = abs((hue - centre + 3) % 6 - 3)
    return float(np.clip(distance - 1, 0, 1))


def random_person(rng: np.random.Generator) -> Person:
    """Draw a person; every call consumes the same kind of draws whatever the person will do."""
    return Person(
        height=float(rng.choice([rng.normal(1.0, 0.05), rng.normal(0.82, 0.05)], p=[0.85, 0.15])),
        build=float(np.clip(rng.normal(1.0, 0.13), 0.78, 1.35)),
        shoulder=float(rng.uniform(0.105, 0.13)),
        hip=float(rng.uniform(0.06, 0.08)),
        skin=_SKIN[rng.integers(len(_SKIN))],
        hair=_HAIR[rng.integers(len(_HAIR))],
        long_hair=bool(rng.random() < 0.4),
        hat=_cloth(rng) if rng.random() < 0.2 else None,
        top=_cloth(rng),
        stripe=_cloth(rng) if rng.random() < 0.3 else None,
        sleeve="long" if rng.random() < 0.6 else "short",
        bottom=_cloth(rng),
        bottom_kind=str(rng.choice(["trousers", "shorts", "skirt"], p=[0.68, 0.2, 0.12])),
        shoes=_SHOES[rng.integers(len(_SHOES))],
        backpack=_cloth(rng) if rng.random() < 0.15 else None,
    )
