"""A YOLO network in an Ultralytics checkpoint, run by torch.

Shape letters: B images, H height, W width, C classes, A anchors.
"""

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from detector_svc.offline import import_ultralytics
from stal_data.errors import InputError, NotFoundError


class TorchNetwork:
    """A `detector_svc.yolo.Network`."""

    input_size: tuple[int, int] | None = None
    batch: int | None = None
    library: str | None = None

    def __init__(self, path: Path, device: str) -> None:
        """Load the checkpoint; a missing or unreadable file is an error that names it. device: see YoloConfig."""
        self._device = choose_device(device)
        self.device = str(self._device)
        self.module = load_model(path).to(self._device)
        self.names = {int(number): str(name) for number, name in self.module.names.items()}
        self.stride = int(max(self.module.stride))
        self.end2end = bool(getattr(self.module, "end2end", False))

    def __call__(self, images_BHW3: NDArray[np.uint8]) -> torch.Tensor:
        """Run one batch."""
        batch_BHW3 = torch.from_numpy(images_BHW3).to(self._device)
        found: torch.Tensor = self.module(batch_BHW3.permute(0, 3, 1, 2).contiguous().float() / 255)[0]
        return found


def check_weights(path: Path) -> None:
    """Raise NotFoundError when the weights are not there."""
    if not path.is_file():
        raise NotFoundError(
            f"The weights '{path}' do not exist; nothing is downloaded. Train them with 'stal-cli detector train', or "
            "give the path of an Ultralytics detection checkpoint."
        )


def load_model(path: Path) -> Any:
    """Return the checkpoint's network in float32, fused, in eval mode, on the CPU. Nothing in the file is executed."""
    check_weights(path)
    # Ultralytics takes quotes and outer spaces out of a path and then looks for the rest online.
    if path.suffix != ".pt" or "'" in str(path) or str(path) != str(path).strip():
        raise InputError(f"The weights '{path}' must be a .pt or .onnx file, its path without quotes and outer spaces.")
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
