"""A YOLO model: images in, boxes out."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from detector_svc.detections import FrameDetections
from detector_svc.detector_protocol import DetectorConfig, PreparedImage
from detector_svc.yolo.offline_ultralytics import import_ultralytics
from detector_svc.yolo.onnx_network import OnnxNetwork
from detector_svc.yolo.torch_network import TorchNetwork, check_weights
from stal_data.digests import sha256_of
from stal_data.errors import InputError

MAX_BOXES = 300
"""Most people that one image can have."""


class Network(Protocol):
    """A detection network, in whatever form it came. Boxes are x, y, width, height in pixels of its input."""

    device: str
    names: dict[int, str]
    """Of the classes."""
    stride: int
    """Sides of its input are multiples of this."""
    input_size: tuple[int, int] | None
    """Height and width of its input where it takes no other."""
    trained_size: tuple[int, int]
    """Height and width of the images that it was trained on."""
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
    """A `Detector`. Its weights are an Ultralytics detection checkpoint (.pt), or such a model's export (.onnx)."""

    def __init__(self, config: DetectorConfig) -> None:
        ultralytics = f"ultralytics-{import_ultralytics()}"
        self.network = network = open_network(config.weights, config.device)
        if config.image_size is None:
            config = replace(config, image_size=network.input_size or network.trained_size)
        self.config = config
        self.weights_digest = f"sha256:{sha256_of(config.weights)}"
        self.device = network.device
        self.library = " ".join(filter(None, [ultralytics, network.library]))
        self._classes = choose_classes(network.names, config.classes)
        self.people = tuple(network.names[number] for number in self._classes)
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
        import torchvision  # noqa: F401  # Ultralytics has an NMS of its own until then, which keeps other boxes
        from ultralytics.data.augment import LetterBox

        # The same shape for every image, so that boxes do not depend on what else is in the batch.
        self._letterbox: Any = LetterBox(self.input_size, auto=False, stride=network.stride)
        try:
            self.forward([])  # so a GPU loads its code now and not for the first images
        except torch.OutOfMemoryError as error:
            raise InputError(
                f"--image-size {config.height}x{config.width} does not fit the memory of {self.device} "
                f"({str(error).splitlines()[0]}); choose a smaller one, or another --device."
            ) from error

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
            classes=list(self._classes),
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
    """Ids of the classes that count as people; see DetectorConfig.classes."""
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
