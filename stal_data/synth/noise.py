"""The camera's sensor noise."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops

from stal_data.synth.clip import HEIGHT, WIDTH

_PATTERNS = 6


class Noise:
    """A few patterns of noise; each frame takes one, rolled by a random number of rows."""

    def __init__(self, rng: np.random.Generator) -> None:
        strength = rng.uniform(0.3, 0.8)
        noise = rng.normal(128, strength, size=(_PATTERNS, HEIGHT, WIDTH, 3))
        # 128 where there is none.
        self._patterns = [Image.fromarray(pattern) for pattern in np.round(noise).astype(np.uint8)]
        self._rng = rng

    def add(self, picture: Image.Image) -> NDArray[np.uint8]:
        """Return the next frame [H, W, 3]."""
        grain = ImageChops.offset(self._patterns[self._rng.integers(_PATTERNS)], 0, int(self._rng.integers(HEIGHT)))
        # Saturating: picture + (128 + noise) - 128.
        return np.asarray(ImageChops.add(picture, grain, scale=1, offset=-128))
