"""A camera that pans and zooms over a stage that is larger than the picture."""

import dataclasses
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stal_data.synth.clip import DURATION_S, HEIGHT, NUM_FRAMES, RATE, WIDTH
from stal_data.synth.skeleton import Figure
from stal_data.synth.style_b.acts import Track, ease

# The stage, in pixels at a zoom of 1.
STAGE_WIDTH, STAGE_HEIGHT = 470, 200

_MOST_ZOOM = 1.32


@dataclass(frozen=True, slots=True, kw_only=True)
class Camera:
    """origin_T2: the stage's point at the picture's top left; zoom_T: pixels of the picture per pixel of the stage."""

    origin_T2: Track
    zoom_T: Track

    def view(self, frame: int) -> tuple[float, float, float, float]:
        """The part of the stage that a frame shows: left, top, right, bottom."""
        left, top = (float(value) for value in self.origin_T2[frame])
        zoom = float(self.zoom_T[frame])
        return left, top, left + WIDTH / zoom, top + HEIGHT / zoom

    def project(self, points_TP2: NDArray[np.float64]) -> NDArray[np.float64]:
        """From the stage to the picture; points [T, P, 2] or [1, P, 2]."""
        projected: NDArray[np.float64] = (points_TP2 - self.origin_T2[:, None]) * self.zoom_T[:, None, None]
        return projected

    def project_figure(self, figure: Figure) -> Figure:
        """The figure in the picture."""
        return dataclasses.replace(
            figure,
            points_TJ2=self.project(figure.points_TJ2),
            ground_T2=self.project(figure.ground_T2[:, None])[:, 0],
            scale_T=figure.scale_T * self.zoom_T,
        )


def plan_camera(rng: np.random.Generator, *, most_pan: float) -> Camera:
    """A camera that pans, zooms, does both or stays, and sways a little; `most_pan` in pixels of the stage."""
    time_T = np.arange(NUM_FRAMES) / RATE
    zooms = rng.uniform(1.0, _MOST_ZOOM, size=2)
    pan = rng.uniform(0.4, 1.0) * most_pan * rng.choice([-1.0, 1.0])
    kind = rng.choice(["pan", "zoom", "both", "still"], p=[0.35, 0.15, 0.35, 0.15])
    if kind in ("pan", "still"):
        zooms[1] = zooms[0]
    if kind in ("zoom", "still"):
        pan = 0.0
    start, end = rng.uniform(0, 1.2), DURATION_S - rng.uniform(0, 1.2)
    moved_T = ease((time_T - start) / (end - start))
    zoom_T = zooms[0] * (zooms[1] / zooms[0]) ** moved_T
    width_T, height_T = WIDTH / zoom_T, HEIGHT / zoom_T
    sway_T2 = rng.uniform(0, 0.7) * np.sin(
        2 * np.pi * rng.uniform(0.3, 1.0, size=2) * time_T[:, None] + rng.uniform(0, 6, size=2)
    )
    middle = STAGE_WIDTH / 2 + rng.uniform(-30, 30) + pan * (moved_T - 0.5)
    left_T = np.clip(middle - width_T / 2 + sway_T2[:, 0], 0, STAGE_WIDTH - width_T)
    bottom = rng.uniform(STAGE_HEIGHT - 8, STAGE_HEIGHT - 2)
    top_T = np.clip(bottom - height_T + sway_T2[:, 1], 0, STAGE_HEIGHT - height_T)
    # Fixed fractions of a pixel, so that the last bits of sines do not matter.
    return Camera(origin_T2=_rounded(np.stack([left_T, top_T], axis=1)), zoom_T=_rounded(zoom_T))


def _rounded(values: Track) -> Track:
    return np.round(values * 1024) / 1024
