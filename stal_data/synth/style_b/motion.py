"""From an act to joint angles: poses blended by the act's levels, plus steps and sway."""

import numpy as np
from numpy.typing import NDArray

from stal_data.synth.actions import Motion
from stal_data.synth.skeleton import Segments
from stal_data.synth.style_b.acts import Act, Track

# Body heights of a step with each leg.
STRIDE = 0.52

# Flexion and abduction of upper arm and forearm, in degrees, as in `Motion`.
_REST = {
    "hang": ((3, 8), (9, 3)),
    "back": ((-22, 12), (-14, -22)),
    "pocket": ((-14, 16), (22, -2)),
    "folded": ((22, 10), (74, -66)),
    "chin": ((26, 4), (138, -18)),
}
_LAP = ((30, 8), (72, -10))
_HOLD = ((8, 8), (84, -4))
_REACH = ((60, -4), (84, -4))
_WAVE = ((112, 38), (168, 10))
_PRONE = ((120, 34), (96, 18))


def _blend(value: Track, target: object, level_T: Track) -> None:
    """Move the angles [T, ...] towards the target by the level of each frame."""
    level = level_T.reshape(-1, *[1] * (value.ndim - 1))
    value += level * (np.asarray(target, dtype=np.float64) - value)


def make_motion(act: Act, rng: np.random.Generator, *, side: int, travel: tuple[float, float]) -> Motion:
    """Joint angles of an act.

    side: the arm that reaches and holds, 0 the left one.
    travel: the walking direction as the body sees it, (forward, left).
    """
    time_T = act.clock_T
    spread, lean = rng.uniform(2, 7), rng.uniform(-1, 4)
    sway_T = np.sin(2 * np.pi * rng.uniform(0.2, 0.4) * time_T + rng.uniform(0, 6))
    hip_T2 = np.array([spread, -spread]) + 1.2 * sway_T[:, None]
    knee_T2 = np.full_like(hip_T2, 4.0)
    pitch_T = lean + 0.8 * sway_T
    habit = _REST[str(rng.choice(list(_REST), p=[0.5, 0.15, 0.15, 0.12, 0.08]))]
    arms_T222 = np.empty((len(time_T), 2, 2, 2))  # side, upper arm or forearm, angle
    arms_T222[:] = habit
    if rng.random() < 0.5:
        arms_T222[:, 1 - side] = _REST["hang"]
    arms_T222[..., 0] += 2 * sway_T[:, None, None]

    _blend(hip_T2, [84 + spread, 84 - spread], act.sit_T)
    _blend(knee_T2, [84, 82], act.sit_T)
    pitch_T += 150 * (act.sit_T * (1 - act.sit_T))
    _blend(arms_T222, np.array([_LAP, _LAP]), act.sit_T)

    back = 1 if rng.random() < 0.5 else -1  # falls onto the front or onto the back
    _blend(hip_T2, [-80 * back, -72 * back], act.fall_T)
    _blend(knee_T2, [6, 12], act.fall_T)
    knee_T2 += 150 * (act.fall_T * (1 - act.fall_T))[:, None] * (back > 0)
    _blend(pitch_T, 84 * back, act.fall_T)
    _blend(arms_T222, np.array([_PRONE, _PRONE]) * np.array([back, 1]), act.fall_T)

    swing_T = np.sin(2 * np.pi * rng.uniform(1.2, 1.8) * time_T + rng.uniform(0, 6))
    wave_T22 = np.broadcast_to(np.array(_WAVE, dtype=np.float64), (len(time_T), 2, 2)).copy()
    wave_T22[:, 1] += np.array([24.0, 30.0]) * swing_T[:, None]
    _blend(arms_T222[:, 1 - side], wave_T22, act.wave_T)
    _blend(arms_T222[:, side], _HOLD, act.hold_T)
    _blend(arms_T222[:, side], _REACH, act.reach_T)
    arms_T222[:, side, :, 0] += 9 * act.shake_T[:, None]
    pitch_T += 4 * act.reach_T

    spread_T2 = _add_steps(act, hip_T2, knee_T2, arms_T222, travel)
    return Motion(
        hip_T2=hip_T2,
        knee_T2=knee_T2,
        arm_T22=arms_T222[:, :, 0],
        forearm_T22=arms_T222[:, :, 1],
        pitch_T=pitch_T,
        lift_T=-0.07 * act.fall_T,  # the feet lie on their sides
        spread_T2=spread_T2,
    )


def _add_steps(act: Act, hip_T2: Track, knee_T2: Track, arms_T222: Track, travel: tuple[float, float]) -> Track:
    """Swing the legs along the path, whichever way it goes; returns the legs' abduction.

    The pose follows from the place on the path alone, so the same steps backwards are steps in the other direction.
    """
    size_T = np.clip(act.speed_T / 0.45, 0, 1)
    phase_T = 2 * np.pi * act.path_T / STRIDE
    forward, left = travel
    spread_T2 = np.zeros_like(hip_T2)
    for side, (shift, outwards) in enumerate(((0.0, 1.0), (np.pi, -1.0))):
        swing_T = 19 * size_T * np.sin(phase_T + shift)
        hip_T2[:, side] += forward * swing_T
        spread_T2[:, side] = outwards * left * swing_T
        knee_T2[:, side] += 40 * size_T * np.clip(np.cos(phase_T + shift), 0, None)
        hip_T2[:, side] += 16 * size_T * np.clip(np.cos(phase_T + shift), 0, None)
        arms_T222[:, side, :, 0] -= 0.7 * forward * swing_T[:, None]
    return spread_T2


def planted_shift(motion: Motion, length: Segments) -> NDArray[np.float64]:
    """How far forward of its place the trunk is when the feet stay where they are, in body heights [T]."""
    thigh_T2, shin_T2 = np.radians(motion.hip_T2), np.radians(motion.hip_T2 - motion.knee_T2)
    feet_T = (length.thigh * np.sin(thigh_T2) + length.shin * np.sin(shin_T2)).mean(axis=1)
    return np.asarray(-feet_T)
