"""From joint angles to joints on the screen: forward kinematics, heading, and the camera's projection."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stal_data.synth.actions import Motion
from stal_data.synth.person import Person

# Radius of the head of average proportions, in body heights.
HEAD = 0.068

# The camera looks down a little: a point nearer to it by one body height is this much lower on the screen.
TILT = 0.2

JOINTS = (
    "pelvis", "chest", "head",
    "hip_l", "knee_l", "ankle_l", "toe_l",
    "hip_r", "knee_r", "ankle_r", "toe_r",
    "shoulder_l", "elbow_l", "hand_l",
    "shoulder_r", "elbow_r", "hand_r",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Segments:
    """Lengths of the parts of a body, in body heights; the defaults are average. ankle: its height above the sole."""

    thigh: float = 0.245
    shin: float = 0.235
    foot: float = 0.095
    ankle: float = 0.045
    trunk: float = 0.30
    neck: float = 0.055
    head: float = HEAD
    upper_arm: float = 0.165
    forearm: float = 0.165


AVERAGE = Segments()


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Where the person stands or goes.

    x_T, y_T: the point on the ground below the pelvis, in pixels of the frame.
    scale_T: pixels per body height of this person.
    heading: direction faced, in radians: 0 is screen right, pi/2 towards the camera.
    """

    x_T: NDArray[np.float64]
    y_T: NDArray[np.float64]
    scale_T: NDArray[np.float64]
    heading: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A person's joints over T frames: pixels of the frame, and depth (body heights towards the camera)."""

    person: Person
    points_TJ2: NDArray[np.float64]
    depth_TJ: NDArray[np.float64]
    ground_T2: NDArray[np.float64]
    scale_T: NDArray[np.float64]
    heading: float


def _direction(flexion: NDArray[np.float64], abduction: NDArray[np.float64], side: float) -> NDArray[np.float64]:
    """Unit vectors (forward, left, up) of a segment; `side` is +1 for the left one, -1 for the right one."""
    flex, out = np.radians(flexion), np.radians(abduction)
    return np.stack([np.sin(flex) * np.cos(out), side * np.sin(out), -np.cos(flex) * np.cos(out)], axis=-1)


def _body_joints(person: Person, motion: Motion, length: Segments) -> NDArray[np.float64]:
    """Joints [T, J, 3] as (forward, left, up) from the ground point, in body heights."""
    joints: dict[str, NDArray[np.float64]] = {}
    num_frames = len(motion.pitch_T)
    pelvis = np.zeros((num_frames, 3))
    spine = _direction(180 - motion.pitch_T, np.zeros(num_frames), 1.0)
    joints["pelvis"] = pelvis
    joints["chest"] = pelvis + length.trunk * spine
    # The head follows the trunk only in part: people look where they go.
    gaze = _direction(180 - 0.6 * motion.pitch_T, np.zeros(num_frames), 1.0)
    joints["head"] = joints["chest"] + (length.neck + length.head) * gaze
    spread_T2 = np.zeros((num_frames, 2)) if motion.spread_T2 is None else motion.spread_T2
    for index, (name, side) in enumerate((("l", 1.0), ("r", -1.0))):
        hip = pelvis + np.array([0.0, side * person.hip, 0.0])
        knee = hip + length.thigh * _direction(motion.hip_T2[:, index], spread_T2[:, index] + 1.5, side)
        shin_angle = motion.hip_T2[:, index] - motion.knee_T2[:, index]
        ankle = knee + length.shin * _direction(shin_angle, spread_T2[:, index] + 0.5, side)
        toe = ankle + length.foot * _direction(np.clip(82 + 0.55 * shin_angle, 25, 100), np.full(num_frames, 6.0), side)
        shoulder = joints["chest"] + np.array([0.0, side * person.shoulder, -0.015])
        elbow = shoulder + length.upper_arm * _direction(motion.arm_T22[:, index, 0], motion.arm_T22[:, index, 1], side)
        flexion_T, abduction_T = motion.forearm_T22[:, index, 0], motion.forearm_T22[:, index, 1]
        hand = elbow + length.forearm * _direction(flexion_T, abduction_T, side)
        joints |= {f"hip_{name}": hip, f"knee_{name}": knee, f"ankle_{name}": ankle, f"toe_{name}": toe}
        joints |= {f"shoulder_{name}": shoulder, f"elbow_{name}": elbow, f"hand_{name}": hand}
    stacked = np.stack([joints[name] for name in JOINTS], axis=1)
    soles = stacked[:, [JOINTS.index(n) for n in ("ankle_l", "ankle_r", "toe_l", "toe_r")], 2].min(axis=1)
    stacked[:, :, 2] += (motion.lift_T + length.ankle - soles)[:, None]
    return stacked


def make_figure(person: Person, motion: Motion, placement: Placement, segments: Segments = AVERAGE) -> Figure:
    """Pose a person along a placement."""
    body = _body_joints(person, motion, segments)
    forward, left, up = body[..., 0], body[..., 1], body[..., 2]
    cos, sin = np.cos(placement.heading), np.sin(placement.heading)
    # The left of somebody who faces the camera is on the screen's right.
    right = forward * cos + left * sin
    depth = forward * sin - left * cos
    scale = placement.scale_T[:, None]
    x = placement.x_T[:, None] + scale * right
    y = placement.y_T[:, None] - scale * (up - TILT * depth)
    return Figure(
        person=person,
        points_TJ2=np.stack([x, y], axis=-1),
        depth_TJ=depth,
        ground_T2=np.stack([placement.x_T, placement.y_T], axis=-1),
        scale_T=placement.scale_T,
        heading=placement.heading,
    )
