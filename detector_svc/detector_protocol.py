"""What the service, and measuring, need of a detector. Another detector is one file and one line of DETECTORS."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from detector_svc.detections import FrameDetections
from stal_data.errors import InputError
from stal_data.names import check_name


@dataclass(frozen=True, kw_only=True)
class DetectorConfig:
    """Which detector runs, chosen by the operator."""

    weights: Path
    image_size: tuple[int, int] | None = None
    """Height and width that an image is scaled into, rounded up to the model's stride; the aspect ratio is kept.
    None: what the weights were trained at. A loaded detector's config has a size."""
    confidence: float = 0.3
    """Boxes below it are dropped; above 0 and below 1."""
    overlap: float = 0.7
    """Of two boxes with a greater IoU only the better one is kept."""
    classes: tuple[int, ...] | None = None
    """Class ids that count as people. None: those named `person`, or the only class of a one-class model."""
    device: str = "auto"
    """`auto` (the first GPU, else the CPU), `cpu` or `cuda:N`."""
    name: str | None = None
    """What proposals are filed under; None: the weight file's name without its ending."""
    gpu_pass: int = 8
    """Images that a GPU runs at once, at least 1; see YoloDetector.pass_size."""

    def __post_init__(self) -> None:
        if self.image_size is not None and not all(32 <= side <= 4096 for side in self.image_size):
            raise InputError(
                f"Image size {self.height}x{self.width} (height x width) must be 32 to 4096 pixels a side."
            )
        if not 0 < self.confidence < 1:
            raise InputError(f"Confidence {self.confidence} must be above 0 and below 1.")
        if not 0 < self.overlap <= 1:
            raise InputError(f"Overlap {self.overlap} must be above 0 and at most 1.")
        check_name("detector name (--name)", self.detector_name)

    @property
    def height(self) -> int:
        assert self.image_size is not None
        return self.image_size[0]

    @property
    def width(self) -> int:
        assert self.image_size is not None
        return self.image_size[1]

    @property
    def detector_name(self) -> str:
        return self.name if self.name is not None else self.weights.stem


@dataclass(frozen=True, kw_only=True, eq=False)
class PreparedImage:
    """An image ready for inference.

    pixels_HW3: uint8 RGB at the size of the network's input, grey bars where the aspect ratio differs.
    height, width: of the original image in pixels.
    """

    pixels_HW3: NDArray[np.uint8]
    height: int
    width: int


class Detector(Protocol):
    """A loaded model that finds people."""

    config: DetectorConfig
    weights_digest: str
    """`sha256:` and the hex digest of the weight file."""
    library: str
    """What runs the model, with its version."""
    device: str
    people: tuple[str, ...]
    """Names of the classes that count as people."""

    def prepare(self, image_HW3: NDArray[np.uint8]) -> PreparedImage:
        """Scale an RGB image into the model's input. May run in several threads at a time."""

    def detect(self, images: Sequence[PreparedImage]) -> list[FrameDetections]:
        """Find people in any number of images; what is found in one does not depend on the others. In one thread."""
