"""Who the people of style b are: proportions, thickness of limbs, and what they wear."""

import dataclasses
from dataclasses import dataclass

import numpy as np

from stal_data.synth.person import Person, random_person
from stal_data.synth.skeleton import Segments

OUTFITS = ("shirt", "vest", "coat", "dress", "bands")


@dataclass(frozen=True, slots=True, kw_only=True)
class Body:
    """A person with lengths of its own. arm, leg: factors on the thickness of limbs."""

    person: Person
    segments: Segments
    arm: float
    leg: float
    outfit: str
    second: tuple[int, int, int]
    """Colour of the vest's front, the coat's collar or the bands."""


def random_body(rng: np.random.Generator) -> Body:
    """Draw a body; it does not depend on what the person will do."""
    clothes = random_person(rng)
    legs, arms, trunk = rng.uniform(0.86, 1.14), rng.uniform(0.9, 1.15), rng.uniform(0.86, 1.14)
    child = rng.random() < 0.12
    person = dataclasses.replace(
        clothes,
        height=float(rng.uniform(0.68, 0.82) if child else rng.uniform(0.9, 1.1)),
        build=float(rng.uniform(0.72, 1.5)),
        shoulder=float(rng.uniform(0.09, 0.145)),
        hip=float(rng.uniform(0.055, 0.09)),
        backpack=None,
    )
    segments = Segments(
        thigh=0.245 * legs,
        shin=0.235 * legs,
        foot=float(rng.uniform(0.08, 0.105)),
        trunk=0.30 * trunk,
        neck=float(rng.uniform(0.03, 0.06)),
        head=float(rng.uniform(0.08, 0.095) if child else rng.uniform(0.06, 0.078)),
        upper_arm=0.165 * arms,
        forearm=0.165 * arms,
    )
    red, green, blue = (int(value) for value in rng.integers(20, 236, size=3))
    return Body(
        person=person,
        segments=segments,
        arm=float(rng.uniform(0.7, 1.5)),
        leg=float(rng.uniform(0.75, 1.45)),
        outfit=str(rng.choice(OUTFITS)),
        second=(red, green, blue),
    )
