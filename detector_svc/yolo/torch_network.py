"""A YOLO network in an Ultralytics checkpoint, run by torch.

Shape letters: B images, H height, W width, C classes, A anchors.
"""

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cache.exact_float32 import exact_float32
from detector_svc.yolo.network_checks import UnfitError, check_output, check_stride, read_names, trained_size
from detector_svc.yolo.offline_ultralytics import import_ultralytics
from stal_data.errors import InputError, NotFoundError


class TorchNetwork:
    """A `yolo_detector.Network`."""

    input_size: tuple[int, int] | None = None
    batch: int | None = None
    library: str | None = None

    def __init__(self, path: Path, device: str) -> None:
        """Load the checkpoint; a missing or unreadable file is an error that names it. device: see DetectorConfig."""
        exact_float32()
        chosen = choose_device(device)
        self.module, trained_at = _load_model(path)
        self.trained_size = trained_size(trained_at)
        self._device = torch.device("cpu")
        try:
            check_kind(self.module)
            self.names = read_names(getattr(self.module, "names", None))
            self.stride = check_stride(_stride_of(self.module))
            self.end2end = bool(getattr(self.module, "end2end", False))
            with torch.no_grad():
                size = (1, 2 * self.stride, 3 * self.stride)
                check_output(self, size, num_classes=len(self.names), end2end=self.end2end)
        except UnfitError as error:
            channels = _input_channels(self.module)
            reason = str(error) if channels in (None, 3) else f"takes images of {channels} channels, not RGB"
            raise InputError(
                f"The weights '{path}': the model {reason}. Give a YOLO detection model of RGB images, such as "
                "'stal-cli detector train' makes."
            ) from error
        self._device = chosen
        self.device = str(chosen)
        # Channels last: else a CPU orders the maps of a single image anew in every layer, a third of the time.
        self.module.to(chosen, memory_format=torch.channels_last)

    def __call__(self, images_BHW3: NDArray[np.uint8]) -> torch.Tensor:
        """Run one batch."""
        batch_BHW3 = torch.from_numpy(images_BHW3).to(self._device)
        found: torch.Tensor = self.module(batch_BHW3.permute(0, 3, 1, 2).float() / 255)[0]
        return found


def check_weights(path: Path) -> None:
    """Raise NotFoundError when the weights are not there."""
    if not path.is_file():
        raise NotFoundError(
            f"The weights '{path}' do not exist; nothing is downloaded. Train them with 'stal-cli detector train', or "
            "give the path of an Ultralytics detection checkpoint."
        )


def check_path(path: Path) -> None:
    """Refuse a path that Ultralytics would change: it takes quotes and outer spaces out, and looks for that online."""
    whole = str(path.absolute())
    if path.suffix != ".pt" or "'" in whole or whole != whole.strip():
        raise InputError(
            f"The weights '{whole}' must be a .pt or .onnx file, its path without single quotes and outer spaces."
        )


def check_kind(model: Any) -> None:
    """Refuse what is no YOLO detection model: other kinds may give an output of the same shape and other meaning."""
    from ultralytics.nn.modules import OBB, Detect, Pose, Segment, YOLOESegment

    layers = getattr(model, "model", None)
    head = layers[-1] if isinstance(layers, torch.nn.Sequential) and len(layers) else model
    if not isinstance(head, Detect) or isinstance(head, OBB | Pose | Segment | YOLOESegment):
        raise UnfitError(f"is a {type(model).__name__} that ends in {type(head).__name__}, not in a detection head")


def _stride_of(model: Any) -> object:
    try:
        return int(torch.as_tensor(model.stride).max())
    except (RuntimeError, TypeError, ValueError):
        return model.stride


def _input_channels(model: torch.nn.Module) -> int | None:
    convolutions = (layer for layer in model.modules() if isinstance(layer, torch.nn.Conv2d))
    return next((layer.in_channels for layer in convolutions), None)


def _load_model(path: Path) -> tuple[Any, object]:
    """Return the checkpoint's network in float32, fused, in eval mode, on the CPU, and the image size of its training.

    Nothing in the file is executed.
    """
    check_weights(path)
    check_path(path)
    import_ultralytics()
    from ultralytics.nn.tasks import load_checkpoint

    try:
        # The file is a zip archive with checksums, which the loader does not look at.
        with zipfile.ZipFile(path) as archive:
            if (member := archive.testzip()) is not None:
                raise zipfile.BadZipFile(f"the checksum of {member} is wrong")
        model, found = load_checkpoint(str(path.absolute()), device="cpu", fuse=True)  # type: ignore[no-untyped-call]
    except Exception as error:  # whatever a damaged file makes the unpickler say
        raise InputError(
            f"The weights '{path}' cannot be read as an Ultralytics checkpoint ({type(error).__name__}: "
            f"{str(error).splitlines()[0] if str(error) else 'no reason given'}). Copy or train them again."
        ) from error
    for parameter_name, parameter in model.named_parameters():
        if not torch.isfinite(parameter).all():
            raise InputError(f"The weights '{path}' hold a value that is not finite in '{parameter_name}'.")
    arguments = found.get("train_args")
    return model, arguments.get("imgsz") if isinstance(arguments, dict) else None


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
