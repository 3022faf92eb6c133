"""What people do over a clip: how far they sit, reach or have walked in each frame, and their classes at key frames.

A maker describes one order of events: sitting down, entering, giving. `reverse` runs its clock backwards, from the end
of the clip to its beginning, which is the other class of the pair, frame by frame.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from stal_data.synth.clip import DURATION_S, KEY_SECONDS, NUM_FRAMES, RATE
from stal_data.synth.style_b.classes import BACKWARDS

Track = NDArray[np.float64]

# Body heights that somebody in a doorway or at the edge has come in when the whole body can be seen.
INSIDE = 0.32

# Slower than this, in body heights a second, somebody counts as standing.
_STANDING = 0.12


def zeros() -> Track:
    """A level of 0 in every frame."""
    return np.zeros(NUM_FRAMES)


@dataclass(frozen=True, kw_only=True)
class Act:
    """Tracks over the frames. Levels go from 0, not at all, to 1.

    path_T: signed distance along the walking direction from the anchor, in body heights.
    classes: at each key second, the movement first.
    """

    clock_T: Track
    classes: list[tuple[str, ...]]
    sit_T: Track = field(default_factory=zeros)
    fall_T: Track = field(default_factory=zeros)
    wave_T: Track = field(default_factory=zeros)
    reach_T: Track = field(default_factory=zeros)
    hold_T: Track = field(default_factory=zeros)
    shake_T: Track = field(default_factory=zeros)
    path_T: Track = field(default_factory=zeros)

    @property
    def speed_T(self) -> Track:
        """Body heights a second, unsigned."""
        return np.abs(np.gradient(self.path_T)) * RATE


class Clock:
    """Seconds of the frames and of the key frames, forwards or backwards."""

    def __init__(self, *, reverse: bool = False) -> None:
        self.reverse = reverse
        self.time_T = self._turned(np.arange(NUM_FRAMES) / RATE)
        self.keys = self._turned(np.array(KEY_SECONDS, dtype=np.float64))

    def _turned(self, seconds: Track) -> Track:
        return DURATION_S - seconds if self.reverse else seconds

    def act(self, classes: Sequence[tuple[str, ...]], **tracks: Track) -> Act:
        """An act whose maker named the classes as if the clock ran forwards."""
        if self.reverse:
            classes = [tuple(BACKWARDS.get(name, name) for name in names) for names in classes]
        return Act(clock_T=self.time_T, classes=list(classes), **tracks)


def ease(x: Track) -> Track:
    """0 to 1 with a soft start and end, its own mirror image."""
    u = np.clip(x, 0, 1)
    return u * u * (3 - 2 * u)


def steady(clock: Clock, movement: str, *, wave: bool = False, hold: bool = False) -> Act:
    """Stands or sits all the time, may wave or hold something."""
    return clock.act(
        [(movement, "wave") if wave else (movement,)] * len(KEY_SECONDS),
        sit_T=zeros() + float(movement == "sit"),
        wave_T=zeros() + float(wave),
        hold_T=zeros() + float(hold),
    )


def walk(clock: Clock, rng: np.random.Generator) -> Act:
    """Walks all the time."""
    return clock.act([("walk",)] * len(KEY_SECONDS), path_T=rng.uniform(0.42, 0.65) * (clock.time_T - DURATION_S / 2))


def enter(clock: Clock, rng: np.random.Generator, *, outside: float) -> Act:
    """Comes in across the anchor, from `outside` body heights before it, and stands still farther in."""
    speed, inside, soft = rng.uniform(0.42, 0.6), rng.uniform(0.5, 1.0), 0.4
    key = KEY_SECONDS[int(rng.integers(len(KEY_SECONDS)))]
    crossing = key - rng.uniform(0.02, 0.26) / speed

    def ramp(seconds: Track) -> Track:
        """Integral of `ease`: distance after a soft start."""
        u = np.clip(seconds / soft, 0, 1)
        return soft * (u**3 - u**4 / 2) + np.clip(seconds - soft, 0, None)

    def path(seconds: Track) -> Track:
        since = seconds - crossing
        return speed * (ramp(since + outside / speed + soft / 2) - ramp(since - inside / speed + soft / 2)) - outside

    path_T = path(clock.time_T)
    names = []
    for second in clock.keys:
        place, before, after = path(second + np.array([0.0, -0.02, 0.02]))
        walks = (after - before) / 0.04 > _STANDING
        names.append(("enter",) if place < INSIDE else ("walk",) if walks else ("stand",))
    return clock.act(names, path_T=path_T)


def fall(clock: Clock, rng: np.random.Generator) -> Act:
    """Stands, falls over and stays down."""
    start = KEY_SECONDS[int(rng.integers(2))] - rng.uniform(0.15, 0.7)
    fall_T = np.clip((clock.time_T - start) / rng.uniform(0.7, 0.95), 0, 1) ** 1.6
    return clock.act([("fall",) if second > start else ("stand",) for second in clock.keys], fall_T=fall_T)
