"""Acts that may be undone within the clip: sitting down, handing something over, shaking hands."""

from dataclasses import dataclass

import numpy as np

from stal_data.synth.clip import DURATION_S, KEY_SECONDS
from stal_data.synth.style_b.acts import Act, Clock, Track, ease, zeros


@dataclass(frozen=True)
class _Event:
    """There, or back again, between two seconds."""

    start: float
    end: float
    back: bool

    def share(self, seconds: Track) -> Track:
        return (seconds - self.start) / (self.end - self.start)

    def level(self, seconds: Track, hurry: float) -> Track:
        return ease(0.5 + (self.share(seconds) - 0.5) * hurry) * (-1.0 if self.back else 1.0)


@dataclass(frozen=True)
class _Cycle:
    """A level that changes once, or once and back: from `first` on."""

    first: float
    events: list[_Event]

    def level(self, seconds: Track, *, hurry: float = 1.0) -> Track:
        """`hurry`: how much faster than its event the level changes, around its middle."""
        return sum((event.level(seconds, hurry) for event in self.events), np.full_like(seconds, self.first))

    def at(self, second: float) -> _Event | None:
        return next((event for event in self.events if event.start < second < event.end), None)


def _cycle(rng: np.random.Generator, shortest: float, longest: float) -> _Cycle:
    """One event from level 0 to 1, or two from either; key seconds are never close to a start or an end."""
    while True:
        back = False
        if rng.random() < 0.4:
            centres = [float(rng.uniform(1.8, 4.2))]
        else:
            middle, gap = DURATION_S / 2 + rng.uniform(-0.3, 0.3), rng.uniform(1.9, 2.4)
            centres, back = [middle - gap / 2, middle + gap / 2], bool(rng.random() < 0.5)
        halves = rng.uniform(shortest / 2, longest / 2, size=len(centres))
        events = [_Event(c - h, c + h, back ^ bool(i)) for i, (c, h) in enumerate(zip(centres, halves, strict=True))]
        borders = np.array([border for event in events for border in (event.start, event.end)])
        if np.abs(borders[:, None] - np.array(KEY_SECONDS)).min() > 0.12:
            return _Cycle(float(back), events)


def sit_down(clock: Clock, rng: np.random.Generator) -> Act:
    """Stands and sits down, or sits down and stands up in turn."""
    cycle = _cycle(rng, 1.1, 1.5)
    levels, classes = cycle.level(clock.keys), []
    for second, level in zip(clock.keys, levels, strict=True):
        event = cycle.at(second)
        if event is None:
            classes.append(("sit" if level > 0.5 else "stand",))
        else:
            classes.append(("stand_up" if event.back else "sit_down",))
    return clock.act(classes, sit_T=cycle.level(clock.time_T))


def give(clock: Clock, rng: np.random.Generator) -> tuple[Act, Act]:
    """One gives the other an object, or it goes there and back."""
    cycle = _cycle(rng, 1.3, 1.7)
    reach_T, moved_T = zeros(), cycle.level(clock.time_T, hurry=6.0)
    for event in cycle.events:
        share_T = event.share(clock.time_T)
        reach_T += ease(np.minimum(share_T, 1 - share_T) / 0.36)
    acts = []
    for first in (True, False):
        found = [cycle.at(second) for second in clock.keys]
        names = [("stand",) if e is None else ("stand", "give" if e.back != first else "take") for e in found]
        acts.append(clock.act(names, reach_T=reach_T.copy(), hold_T=1 - moved_T if first else moved_T.copy()))
    return acts[0], acts[1]


def shake_hands(clock: Clock, rng: np.random.Generator) -> tuple[Act, Act]:
    """Two shake hands around the middle of the clip."""
    while True:
        start, end = DURATION_S / 2 - rng.uniform(0.8, 1.7), DURATION_S / 2 + rng.uniform(0.8, 1.7)
        if np.abs(np.array([[start], [end]]) - np.array(KEY_SECONDS)).min() > 0.15:
            break
    away_T = np.minimum(clock.time_T - start, end - clock.time_T)
    reach_T = ease(away_T / 0.5)
    shake_T = ease((away_T - 0.3) / 0.2) * np.sin(2 * np.pi * rng.uniform(1.8, 2.4) * clock.time_T)
    names = [("stand", "shake_hands") if start < second < end else ("stand",) for second in clock.keys]
    first, second = (clock.act(list(names), reach_T=reach_T.copy(), shake_T=shake_T.copy()) for _ in range(2))
    return first, second
