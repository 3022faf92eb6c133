"""The YOLO backend. Only this package imports ultralytics, and only after `import_ultralytics`."""

import hashlib
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from detector_svc.detections import FrameDetections
from detector_svc.offline import import_ultralytics
from stal_data.errors import InputError, NotFoundError
from stal_data.names import check_name

MAX_BOXES = 300
"""Most people that one image can have."""


@dataclass(frozen=True, kw_only=True)
class YoloConfig:
    """Which detector runs, chosen by the operator."""

    weights: Path
    """An Ultralytics detection checkpoint (.pt)."""
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
    """What proposals are filed under; None: the weight file's name without .pt."""

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


class YoloDetector:
    """A loaded model. `prepare` may run in many threads, `detect` in one at a time."""

    def __init__(self, config: YoloConfig) -> None:
        """Load the weights; a missing or unreadable file is an error that names it."""
        self.config = config
        self.library = f"ultralytics-{import_ultralytics()}"
        self.device = choose_device(config.device)
        self.weights_digest = _file_digest(config.weights)
        self._model = load_model(config.weights).to(self.device)
        self.class_names = {int(number): str(name) for number, name in self._model.names.items()}
        self.classes = choose_classes(self.class_names, config.classes)
        stride = int(max(self._model.stride))
        self.input_size = (_round_up(config.height, stride), _round_up(config.width, stride))
        """Height and width of the network's input in pixels."""
        from ultralytics.data.augment import LetterBox

        # The same shape for every image, so that boxes do not depend on what else is in the batch.
        self._letterbox: Any = LetterBox(self.input_size, auto=False, stride=stride)

    def prepare(self, image_HW3: NDArray[np.uint8]) -> PreparedImage:
        """Scale an RGB image into the network's input."""
        height, width = image_HW3.shape[:2]
        return PreparedImage(pixels_HW3=self._letterbox(image=image_HW3), height=height, width=width)

    @torch.inference_mode()
    def detect(self, images: Sequence[PreparedImage]) -> list[FrameDetections]:
        """Run one batch."""
        from ultralytics.utils.nms import non_max_suppression
        from ultralytics.utils.ops import scale_boxes

        batch_BHW3 = torch.from_numpy(np.stack([image.pixels_HW3 for image in images])).to(self.device)
        batch_B3HW = batch_BHW3.permute(0, 3, 1, 2).contiguous().float() / 255
        found = non_max_suppression(
            self._model(batch_B3HW),
            # Ultralytics keeps what is strictly above its threshold.
            conf_thres=float(np.nextafter(np.float32(self.config.confidence), np.float32(0))),
            iou_thres=self.config.overlap,
            classes=list(self.classes),
            # Several classes may all mean a person: one person is one box.
            agnostic=True,
            max_det=MAX_BOXES,
            # A slow moment must not silently cost the last images of a batch their boxes.
            max_time_img=float("inf"),
            end2end=bool(getattr(self._model, "end2end", False)),
        )
        detections = []
        for image, found_N6 in zip(images, found, strict=True):
            scaled_N4: Any = scale_boxes(self.input_size, found_N6[:, :4], (image.height, image.width))
            detections.append(_normalised(scaled_N4.cpu().numpy(), found_N6[:, 4].cpu().numpy(), image))
        return detections


def _normalised(boxes_N4: NDArray[np.float32], scores_N: NDArray[np.float32], image: PreparedImage) -> FrameDetections:
    size_4 = np.array([image.width, image.height, image.width, image.height], np.float32)
    boxes_N4 = np.clip(boxes_N4 / size_4, 0, 1).astype(np.float32)
    # A box that lay wholly in the grey bars has no area left.
    visible_N = (boxes_N4[:, 0] < boxes_N4[:, 2]) & (boxes_N4[:, 1] < boxes_N4[:, 3])
    return FrameDetections(boxes_N4=boxes_N4[visible_N], scores_N=scores_N[visible_N].astype(np.float32))


def load_model(path: Path) -> Any:
    """Return the checkpoint's network in float32, fused, in eval mode, on the CPU. Nothing in the file is executed."""
    if not path.is_file():
        raise NotFoundError(
            f"The weights '{path}' do not exist; nothing is downloaded. Train them with 'stal-cli detector train', or "
            "give the path of an Ultralytics detection checkpoint."
        )
    # Ultralytics takes quotes and outer spaces out of a path and then looks for the rest online.
    if path.suffix != ".pt" or "'" in str(path) or str(path) != str(path).strip():
        raise InputError(f"The weights '{path}' must be a .pt file, its path without quotes and outer spaces.")
    import_ultralytics()
    from ultralytics.nn.tasks import load_checkpoint

    try:
        # The file is a zip archive with checksums, which the loader does not look at.
        with zipfile.ZipFile(path) as archive:
            if (member := archive.testzip()) is not None:
                raise zipfile.BadZipFile(f"the checksum of {member} is wrong")
        model, _ = load_checkpoint(str(path.absolute()), device="cpu", fuse=True)  # type: ignore[no-untyped-call]
    except Exception as error:  # whatever a damaged file makes the unpickler say
        raise InputError(
            f"The weights '{path}' cannot be read as an Ultralytics checkpoint ({type(error).__name__}: "
            f"{str(error).splitlines()[0] if str(error) else 'no reason given'}). Copy or train them again."
        ) from error
    if getattr(model, "task", None) != "detect":
        raise InputError(f"The weights '{path}' are for '{getattr(model, 'task', None)}'; a detection model is needed.")
    for parameter_name, parameter in model.named_parameters():
        if not torch.isfinite(parameter).all():
            raise InputError(f"The weights '{path}' hold a value that is not finite in '{parameter_name}'.")
    return model


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


def choose_device(device: str) -> torch.device:
    """The torch device for `auto`, `cpu` or `cuda:N`; one that is not there is an error."""
    if device == "auto":
        device = "cuda:0" if torch.cuda.is_available() else "cpu"
    try:
        chosen = torch.device(device)
        torch.empty(1, device=chosen)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"--device '{device}' cannot be used ({reason}); give auto, cpu or cuda:N.") from error
    return chosen


def _round_up(size: int, stride: int) -> int:
    return -(-size // stride) * stride


def _file_digest(path: Path) -> str:
    if not path.is_file():
        return ""  # load_model says it better
    with path.open("rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
