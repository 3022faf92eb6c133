"""What each movement does to the joints: angles over time, for a body of height 1.

Angles are in degrees. A limb segment's direction is given by a flexion (0 hangs down, 90 points forward, 180 up) and an
abduction (90 points sideways, away from the body). A trunk's pitch is 0 upright and positive forward.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Track = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Motion:
    """Joint angles of T frames, in degrees; arrays with a last axis of 2 hold left and right."""

    hip_T2: Track
    knee_T2: Track
    """Flexion of the knee: the shin's direction is the hip angle minus it."""
    arm_T22: Track
    """Upper arm: flexion and abduction, [T, side, 2]."""
    forearm_T22: Track
    """Forearm, in the same absolute terms as the upper arm."""
    pitch_T: Track
    lift_T: Track
    """Height of the lower foot above the ground, in body heights."""
    spread_T2: Track | None = None
    """Abduction of the legs, for steps to the side; none by default."""


def _blank(num_frames: int) -> dict[str, Track]:
    return {
        "hip_T2": np.zeros((num_frames, 2)),
        "knee_T2": np.full((num_frames, 2), 3.0),
        "arm_T22": np.zeros((num_frames, 2, 2)),
        "forearm_T22": np.zeros((num_frames, 2, 2)),
        "pitch_T": np.zeros(num_frames),
        "lift_T": np.zeros(num_frames),
    }


def _idle_arms(rng: np.random.Generator, m: dict[str, Track], time_T: Track, sides: tuple[int, ...] = (0, 1)) -> None:
    """Arms at rest: hanging, on the hips, folded, or a hand at the chin or at a telephone."""
    sway = 3 * np.sin(2 * np.pi * rng.uniform(0.2, 0.4) * time_T + rng.uniform(0, 6))
    habit = rng.choice(["hang", "hips", "fold", "phone"], p=[0.55, 0.15, 0.15, 0.15])
    phone_side = int(rng.integers(2))
    for side in sides:
        upper, lower = (4.0, 8.0), (10.0, 4.0)
        if habit == "hips":
            upper, lower = (-10.0, 42.0), (18.0, -38.0)
        elif habit == "fold":
            upper, lower = (18.0, 6.0), (82.0, -60.0)
        elif habit == "phone" and side == phone_side:
            upper, lower = (28.0, 12.0), (112.0, -12.0)
        m["arm_T22"][:, side] = upper
        m["forearm_T22"][:, side] = lower
        m["arm_T22"][:, side, 0] += sway
        m["forearm_T22"][:, side, 0] += 1.5 * sway


def _standing_legs(rng: np.random.Generator, m: dict[str, Track], time_T: Track) -> None:
    spread = rng.uniform(1, 7)
    shift = 1.5 * np.sin(2 * np.pi * rng.uniform(0.15, 0.35) * time_T + rng.uniform(0, 6))
    m["hip_T2"][:, 0] = spread + shift
    m["hip_T2"][:, 1] = -spread + shift
    m["pitch_T"] += rng.uniform(-2, 5) + 0.7 * shift


def _stand(rng: np.random.Generator, time_T: Track) -> dict[str, Track]:
    m = _blank(len(time_T))
    _standing_legs(rng, m, time_T)
    _idle_arms(rng, m, time_T)
    return m


def _gait(rng: np.random.Generator, time_T: Track, *, rate: float, swing: float, knee: float) -> dict[str, Track]:
    """Legs of walking and running: hips half a cycle apart, the knee bends while its leg swings forward."""
    m = _blank(len(time_T))
    phase_T = 2 * np.pi * rate * time_T + rng.uniform(0, 2 * np.pi)
    for side, shift in ((0, 0.0), (1, np.pi)):
        angle_T = phase_T + shift
        m["hip_T2"][:, side] = swing * np.sin(angle_T) + 0.2 * swing
        m["knee_T2"][:, side] = 6 + knee * np.clip(np.cos(angle_T + 0.35), 0, None) ** 1.3
    return m


def _walk(rng: np.random.Generator, time_T: Track) -> dict[str, Track]:
    rate, swing = rng.uniform(0.8, 1.05), rng.uniform(21, 28)
    m = _gait(rng, time_T, rate=rate, swing=swing, knee=rng.uniform(35, 50))
    arm = rng.uniform(0.6, 1.0)
    for side in (0, 1):
        back_T = -arm * m["hip_T2"][:, side]
        m["arm_T22"][:, side] = np.stack([back_T, np.full_like(back_T, 7.0)], axis=1)
        m["forearm_T22"][:, side] = np.stack([back_T + 14, np.full_like(back_T, 3.0)], axis=1)
    m["pitch_T"] += rng.uniform(1, 6)
    return m


def _run(rng: np.random.Generator, time_T: Track) -> dict[str, Track]:
    rate, swing = rng.uniform(1.35, 1.75), rng.uniform(29, 38)
    m = _gait(rng, time_T, rate=rate, swing=swing, knee=rng.uniform(85, 110))
    for side in (0, 1):
        back_T = -0.95 * m["hip_T2"][:, side]
        m["arm_T22"][:, side] = np.stack([back_T, np.full_like(back_T, 10.0)], axis=1)
        m["forearm_T22"][:, side] = np.stack([back_T + 85, np.full_like(back_T, -6.0)], axis=1)
    m["pitch_T"] += rng.uniform(8, 17)
    m["lift_T"] += 0.025 * (1 + np.sin(4 * np.pi * rate * time_T))
    return m


def _jump(rng: np.random.Generator, time_T: Track) -> dict[str, Track]:
    """Jumps on the spot: bend, push off, fly with the arms up, land."""
    m = _blank(len(time_T))
    period, height = rng.uniform(0.75, 1.0), rng.uniform(0.14, 0.24)
    cycle_T = (time_T / period + rng.uniform()) % 1.0
    flight_T = np.clip((cycle_T - 0.4) / 0.6, 0, 1)
    air_T = 4 * flight_T * (1 - flight_T)
    squat_T = np.where(cycle_T < 0.4, np.sin(np.pi * cycle_T / 0.4), 0)
    m["lift_T"] = height * air_T
    m["hip_T2"] = np.repeat((38 * squat_T + 14 * air_T)[:, None], 2, axis=1)
    m["knee_T2"] = np.repeat((76 * squat_T + 34 * air_T + 3)[:, None], 2, axis=1)
    m["pitch_T"] = 14 * squat_T
    reach = rng.uniform(95, 160)
    arm_T = reach * air_T - 30 * squat_T
    for side in (0, 1):
        m["arm_T22"][:, side] = np.stack([arm_T, 12 + 14 * air_T], axis=1)
        m["forearm_T22"][:, side] = np.stack([arm_T + 18, 8 + 10 * air_T], axis=1)
    return m


def _wave(rng: np.random.Generator, time_T: Track) -> dict[str, Track]:
    """One raised arm whose forearm swings; the swing shows from the side and from the front."""
    m = _blank(len(time_T))
    _standing_legs(rng, m, time_T)
    side = int(rng.integers(2))
    _idle_arms(rng, m, time_T, sides=(1 - side,))
    swing_T = np.sin(2 * np.pi * rng.uniform(1.1, 1.9) * time_T + rng.uniform(0, 6))
    upper = (rng.uniform(95, 140), rng.uniform(25, 50))
    m["arm_T22"][:, side] = upper
    m["arm_T22"][:, side, 0] += 6 * swing_T
    m["forearm_T22"][:, side, 0] = rng.uniform(158, 172) + rng.uniform(26, 38) * swing_T
    m["forearm_T22"][:, side, 1] = 8 + rng.uniform(24, 36) * swing_T
    return m


def _crouch(rng: np.random.Generator, time_T: Track) -> dict[str, Track]:
    m = _blank(len(time_T))
    bob_T = 4 * np.sin(2 * np.pi * rng.uniform(0.2, 0.5) * time_T + rng.uniform(0, 6))
    depth = rng.uniform(88, 108)
    m["hip_T2"] = depth + bob_T[:, None] + np.array([rng.uniform(-6, 6), rng.uniform(-6, 6)])
    m["knee_T2"] = 1.3 * m["hip_T2"] + 2
    m["pitch_T"] = rng.uniform(22, 40) + bob_T
    reach = rng.uniform(25, 60)
    for side in (0, 1):
        m["arm_T22"][:, side] = np.stack([reach + bob_T, np.full_like(bob_T, 8.0)], axis=1)
        m["forearm_T22"][:, side] = np.stack([reach + 35 - bob_T, np.full_like(bob_T, -8.0)], axis=1)
    return m


def _punch(rng: np.random.Generator, time_T: Track) -> dict[str, Track]:
    """A boxer's stance; the fists shoot forward in turn."""
    m = _blank(len(time_T))
    lead = 1 if rng.random() < 0.5 else -1
    bounce_T = np.sin(2 * np.pi * rng.uniform(1.2, 1.8) * time_T)
    m["hip_T2"] = np.array([18.0, -16.0])[::lead] + 3 * bounce_T[:, None]
    m["knee_T2"] = np.array([26.0, 22.0])[::lead] + 5 * bounce_T[:, None]
    m["pitch_T"] = rng.uniform(6, 14) + 2 * bounce_T
    rate, phase = rng.uniform(0.75, 1.15), rng.uniform(0, 2 * np.pi)
    for side, shift in ((0, 0.0), (1, np.pi)):
        out_T = np.clip(np.sin(2 * np.pi * rate * time_T + phase + shift), 0, 1) ** 0.8
        m["arm_T22"][:, side] = np.stack([22 + 66 * out_T, 16 - 12 * out_T], axis=1)
        m["forearm_T22"][:, side] = np.stack([138 - 48 * out_T, -14 + 14 * out_T], axis=1)
    return m


def _bow(rng: np.random.Generator, time_T: Track) -> dict[str, Track]:
    """The trunk bends far forward and comes up again."""
    m = _blank(len(time_T))
    _standing_legs(rng, m, time_T)
    down_T = 0.5 - 0.5 * np.cos(2 * np.pi * rng.uniform(0.45, 0.65) * time_T + rng.uniform(0, 2 * np.pi))
    m["pitch_T"] = rng.uniform(62, 88) * down_T
    m["hip_T2"] -= 6 * down_T[:, None]
    for side in (0, 1):
        m["arm_T22"][:, side] = np.stack([3 + 14 * down_T, np.full_like(down_T, 6.0)], axis=1)
        m["forearm_T22"][:, side] = np.stack([8 + 20 * down_T, np.full_like(down_T, 3.0)], axis=1)
    return m


_MAKERS: dict[str, Callable[[np.random.Generator, Track], dict[str, Track]]] = {
    "stand": _stand,
    "walk": _walk,
    "run": _run,
    "jump": _jump,
    "wave": _wave,
    "crouch": _crouch,
    "punch": _punch,
    "bow": _bow,
}


def make_motion(movement: str, rng: np.random.Generator, time_T: Track) -> Motion:
    """Joint angles of `movement` at the given seconds, with random rhythm, phase and amplitude."""
    return Motion(**_MAKERS[movement](rng, time_T))
