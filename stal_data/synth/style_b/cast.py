"""Who is in a video of style b: its scenario and its rare actions follow from its number, so that counts are even."""

from dataclasses import dataclass

import numpy as np

from stal_data.synth.style_b import acts, cycles
from stal_data.synth.style_b.acts import Act, Clock

# One scenario a video, in turn.
SCENARIOS = (
    "seats", "door", "handover", "seats", "door", "handover", "crowd", "seats", "door", "handover",
    "seats", "door", "handover", "crowd", "seats", "door", "handover", "seats", "door", "handover",
)  # fmt: skip

# Places in the cycle of scenarios, which moves on by three each time, of the rare actions: of some 100 people in a
# cycle two fall and two shake hands.
_FALLS, _HANDSHAKE = (4, 14), 9

_COMPANY = ("stand", "walk", "sit", "hold", "walk", "wave", "stand", "sit_wave", "walk")
MOST_PEOPLE = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """People who have one place together.

    kind: 'free', 'seat', 'door', 'edge', 'pair' or 'parcel' (with something to carry).
    lead: whether others may hide them only a little.
    """

    kind: str
    acts: tuple[Act, ...]
    lead: bool = True


def cast(number: int, rng: np.random.Generator) -> list[Unit]:
    """The people of video `number` of a split."""
    scenario = SCENARIOS[number % len(SCENARIOS)]
    units = _leads(scenario, rng)
    turn = (number + 3 * (number // len(SCENARIOS))) % len(SCENARIOS)
    if turn in _FALLS:
        units.append(Unit(kind="free", acts=(acts.fall(Clock(), rng),)))
    if turn == _HANDSHAKE:
        units.append(Unit(kind="pair", acts=cycles.shake_hands(Clock(), rng)))
    people = sum(len(unit.acts) for unit in units)
    company = int(rng.integers(1, 5))
    if scenario == "crowd":
        company = int(rng.integers(8, MOST_PEOPLE + 1)) - people
    start = number + number // len(_COMPANY)
    return units + [_company(_COMPANY[(start + i) % len(_COMPANY)], rng) for i in range(company)]


def _leads(scenario: str, rng: np.random.Generator) -> list[Unit]:
    first = bool(rng.random() < 0.5)
    clocks = [Clock(reverse=first), Clock(reverse=not first)]
    if scenario == "seats":
        return [_sitter(clock, rng) for clock in clocks]
    if scenario == "door":
        return [_passer(clock, rng) for clock in (*clocks, clocks[rng.integers(2)])]
    if scenario == "handover":
        return [_pair(clock, rng) for clock in clocks[: 1 + int(rng.random() < 0.4)]]
    return [_sitter(clocks[0], rng), _passer(clocks[1], rng), _pair(clocks[0], rng)]


def _sitter(clock: Clock, rng: np.random.Generator) -> Unit:
    return Unit(kind="seat", acts=(cycles.sit_down(clock, rng),))


def _passer(clock: Clock, rng: np.random.Generator) -> Unit:
    door = bool(rng.random() < 0.6)
    act = acts.enter(clock, rng, outside=0.45 if door else 1.4)
    return Unit(kind="door" if door else "edge", acts=(act,))


def _pair(clock: Clock, rng: np.random.Generator) -> Unit:
    return Unit(kind="parcel", acts=cycles.give(clock, rng))


def _company(role: str, rng: np.random.Generator) -> Unit:
    if role == "walk":
        return Unit(kind="free", acts=(acts.walk(Clock(reverse=bool(rng.random() < 0.5)), rng),), lead=False)
    act = acts.steady(
        Clock(),
        "sit" if role in ("sit", "sit_wave") else "stand",
        wave=role in ("wave", "sit_wave"),
        hold=role == "hold",
    )
    kind = "parcel" if role == "hold" else "seat" if act.sit_T.any() else "free"
    return Unit(kind=kind, acts=(act,), lead=False)
