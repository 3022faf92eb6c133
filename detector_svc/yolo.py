"""The YOLO backend. Only this package imports ultralytics, and only after `import_ultralytics`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from detector_svc.detections import FrameDetections
from detector_svc.offline import import_ultralytics
from detector_svc.onnx_network import OnnxNetwork
from detector_svc.torch_network import TorchNetwork, check_weights
from stal_data.digests import sha256_of
from stal_data.errors import InputError
from stal_data.names import check_name

MAX_BOXES = 300
"""Most people that one image can have."""


@dataclass(frozen=True, kw_only=True)
class YoloConfig:
    """Which detector runs, chosen by the operator."""

    weights: Path
    """An Ultralytics detection checkpoint (.pt), or a detection model that Ultralytics exported (.onnx)."""
    height: int
    """Pixels that an image is scaled into, rounded up to the model's stride; the aspect ratio is kept."""
    width: int
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
        if min(self.height, self.width) < 32 or max(self.height, self.width) > 4096:
            raise InputError(
                f"Image size {self.height}x{self.width} (height x width) must be 32 to 4096 pixels a side."
            )
        if not 0 < self.confidence < 1:
            raise InputError(f"Confidence {self.confidence} must be above 0 and below 1.")
        if not 0 < self.overlap <= 1:
            raise InputError(f"Overlap {self.overlap} must be above 0 and at most 1.")
        check_name("detector name (--name)", self.detector_name)

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


class Network(Protocol):
    """A detection network, in whatever form it came. Boxes are x, y, width, height in pixels of its input."""

    device: str
    names: dict[int, str]
    """Of the classes."""
    stride: int
    """Sides of its input are multiples of this."""
    input_size: tuple[int, int] | None
    """Height and width of its input where it takes no other."""
    batch: int | None
    """Images in its input where it takes no other number."""
    end2end: bool
    """True for heads that choose the boxes themselves."""
    library: str | None
    """What runs it, beside Ultralytics."""

    def __call__(self, images_BHW3: NDArray[np.uint8]) -> torch.Tensor:
        """From RGB images to [B, 4 + C, A]; with end2end to [B, N, 6]: x1, y1, x2, y2, score, class."""


def open_network(weights: Path, device: str) -> Network:
    """Load weights by their ending; a missing or unreadable file is an error that names it."""
    check_weights(weights)
    if weights.suffix == ".onnx":
        return OnnxNetwork(weights, weights.read_bytes(), device)
    return TorchNetwork(weights, device)


class YoloDetector:
    """A loaded model. `prepare` may run in many threads, `detect` in one at a time."""

    def __init__(self, config: YoloConfig) -> None:
        """Load the weights; a missing or unreadable file is an error that names it."""
        self.config = config
        ultralytics = f"ultralytics-{import_ultralytics()}"
        self.network = network = open_network(config.weights, config.device)
        self.weights_digest = f"sha256:{sha256_of(config.weights)}"
        self.device = network.device
        self.library = " ".join(filter(None, [ultralytics, network.library]))
        self.class_names = network.names
        self.classes = choose_classes(self.class_names, config.classes)
        self.input_size = (_round_up(config.height, network.stride), _round_up(config.width, network.stride))
        """Height and width of the network's input in pixels."""
        if network.input_size not in (None, self.input_size):
            raise InputError(
                f"The weights '{config.weights}' take images of {_size(network.input_size)} (height x width) and no "
                f"others, but --image-size {config.height}x{config.width} runs as {_size(self.input_size)}. Give "
                f"--image-size {_size(network.input_size)}, or export them for this size."
            )
        self.pass_size = network.batch or (1 if self.device == "cpu" else config.gpu_pass)
        """Images in every pass of the network, filled up with black ones: in passes of other sizes a frame's numbers
        differ in their last bits, and with them which of two nearly equal boxes is first, or kept."""
        from ultralytics.data.augment import LetterBox

        # The same shape for every image, so that boxes do not depend on what else is in the batch.
        self._letterbox: Any = LetterBox(self.input_size, auto=False, stride=network.stride)

    def prepare(self, image_HW3: NDArray[np.uint8]) -> PreparedImage:
        """Scale an RGB image into the network's input."""
        height, width = image_HW3.shape[:2]
        return PreparedImage(pixels_HW3=self._letterbox(image=image_HW3), height=height, width=width)

    @torch.inference_mode()
    def detect(self, images: Sequence[PreparedImage]) -> list[FrameDetections]:
        """Find people in any number of images; what is found in one does not depend on the others."""
        from ultralytics.utils.nms import non_max_suppression
        from ultralytics.utils.ops import scale_boxes

        passes = [
            self.forward(images[start : start + self.pass_size]) for start in range(0, len(images), self.pass_size)
        ]
        found = non_max_suppression(
            torch.cat(passes),
            # Ultralytics keeps what is strictly above its threshold.
            conf_thres=float(np.nextafter(np.float32(self.config.confidence), np.float32(0))),
            iou_thres=self.config.overlap,
            classes=list(self.classes),
            # Several classes may all mean a person: one person is one box.
            agnostic=True,
            max_det=MAX_BOXES,
            # A slow moment must not silently cost the last images of a batch their boxes.
            max_time_img=float("inf"),
            end2end=self.network.end2end,
        )
        detections = []
        for image, found_N6 in zip(images, found, strict=True):
            scaled_N4: Any = scale_boxes(self.input_size, found_N6[:, :4], (image.height, image.width))
            detections.append(_normalised(scaled_N4.cpu().numpy(), found_N6[:, 4].cpu().numpy(), image))
        return detections

    @torch.inference_mode()
    def forward(self, images: Sequence[PreparedImage]) -> torch.Tensor:
        """The network's output (see Network) for at most `pass_size` images."""
        batch_BHW3 = np.zeros((self.pass_size, *self.input_size, 3), np.uint8)
        for number, image in enumerate(images):
            batch_BHW3[number] = image.pixels_HW3
        return self.network(batch_BHW3)[: len(images)]


def _normalised(boxes_N4: NDArray[np.float32], scores_N: NDArray[np.float32], image: PreparedImage) -> FrameDetections:
    size_4 = np.array([image.width, image.height, image.width, image.height], np.float32)
    boxes_N4 = np.clip(boxes_N4 / size_4, 0, 1).astype(np.float32)
    # A box that lay wholly in the grey bars has no area left.
    visible_N = (boxes_N4[:, 0] < boxes_N4[:, 2]) & (boxes_N4[:, 1] < boxes_N4[:, 3])
    return FrameDetections(boxes_N4=boxes_N4[visible_N], scores_N=scores_N[visible_N].astype(np.float32))


def choose_classes(names: Mapping[int, str], wanted: Sequence[int] | None) -> tuple[int, ...]:
    """Ids of the classes that count as people; see YoloConfig.classes."""
    listing = ", ".join(f"{number}={name}" for number, name in list(names.items())[:20])
    if wanted is not None:
        unknown = sorted(set(wanted) - set(names))
        if unknown or not wanted:
            raise InputError(f"--classes {','.join(map(str, wanted))}: the model has the classes {listing}.")
        return tuple(sorted(set(wanted)))
    if len(names) == 1:
        return tuple(names)
    people = tuple(number for number, name in names.items() if name.lower() == "person")
    if not people:
        raise InputError(
            f"None of the model's classes is called person: {listing}. Say which ones are people with --classes 0,1."
        )
    return people


def _round_up(size: int, stride: int) -> int:
    return -(-size // stride) * stride


def _size(size: tuple[int, int] | None) -> str:
    return "any size" if size is None else f"{size[0]}x{size[1]}"
