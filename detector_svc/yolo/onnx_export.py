"""From an Ultralytics checkpoint to an ONNX file that `detector_svc.yolo.onnx_network` reads."""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cache.onnx_files import import_onnx, write_onnx
from detector_svc.yolo.onnx_network import OnnxNetwork
from detector_svc.yolo.torch_network import TorchNetwork, check_weights
from stal_data.digests import sha256_of
from stal_data.errors import ConflictError, InputError
from stal_data.files import write_atomically

TOLERANCE = 1e-3
"""Largest difference to the checkpoint: of scores, and of boxes in shares of the longer side. Sums differ in order."""


@dataclass(frozen=True, kw_only=True)
class Export:
    """What was written."""

    path: Path
    size: tuple[int, int]
    """Height and width of the network's input in pixels."""
    difference: float
    """Largest one to the checkpoint on noise, as in TOLERANCE."""


def export_onnx(weights: Path, output: Path, *, image_size: tuple[int, int] | None, batch: int | None) -> Export:
    """Write the checkpoint's network for images of one size (rounded up to its stride), in float32.

    image_size: height and width; None = what the checkpoint was trained at. batch: images that a run takes; None any
    number. The file is compared with the checkpoint before it is written. The same weights give the same bytes.
    """
    if output.suffix != ".onnx":
        raise InputError(f"--output '{output}' must end in .onnx.")
    check_weights(weights)
    import_onnx(weights)
    network = TorchNetwork(weights, "cpu")
    stride = network.stride
    height, width = image_size or network.trained_size
    size = (-(-height // stride) * stride, -(-width // stride) * stride)
    content = _to_onnx(network, size, batch, f"sha256:{sha256_of(weights)}")
    difference = _difference(network.module, OnnxNetwork(output, content, "cpu"), size)
    if not difference <= TOLERANCE:
        raise ConflictError(
            f"The network of '{weights}' differs by {difference:.2g} after its export (at most {TOLERANCE}), so "
            "nothing was written. Serve the .pt file."
        )
    write_atomically(output, content)
    return Export(path=output, size=size, difference=difference)


def _to_onnx(network: TorchNetwork, size: tuple[int, int], batch: int | None, weights_digest: str) -> bytes:
    model = network.module
    head = model.model[-1]
    head.export, head.format = True, "onnx"
    # Of two, since a trace of one may take the 1 for a constant.
    images_B3HW = torch.zeros(batch or 2, 3, *size)
    model.requires_grad_(False)
    model(images_B3HW)  # makes the anchors, which the trace then takes as constants
    if hasattr(head, "max_det") and head.anchors.numel():
        head.max_det = min(head.max_det, head.anchors.shape[-1])
    free = {} if batch else {"images": "batch", "output0": "batch"}
    metadata = {
        "task": "detect",
        "names": str(network.names),
        "end2end": str(network.end2end),
        "imgsz": str(list(size)),
        "weights": weights_digest,
        "stride": str(network.stride),
    }
    with tempfile.TemporaryDirectory(prefix="stal-onnx-") as folder:
        path = Path(folder, "model.onnx")
        write_onnx(path, model, {"images": images_B3HW}, ["output0"], free=free, metadata=metadata)
        return path.read_bytes()


def _difference(model: Any, network: OnnxNetwork, size: tuple[int, int]) -> float:
    """Largest difference of scores, and of boxes in longer sides, on images of noise."""
    rng = np.random.default_rng(0)
    images_BHW3 = rng.integers(0, 256, (network.batch or 3, *size, 3), dtype=np.uint8)
    images_B3HW = torch.from_numpy(images_BHW3.transpose(0, 3, 1, 2)).float() / 255
    with torch.no_grad():
        ours, theirs = model(images_B3HW).numpy(), network(images_BHW3).numpy()
    if network.end2end:  # its boxes may change places where scores are equal
        return float(np.abs(ours[..., 4] - theirs[..., 4]).max())
    return float(np.abs(_scaled(ours, size) - _scaled(theirs, size)).max())


def _scaled(found: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    scale = np.ones((1, found.shape[1], 1), np.float32)
    scale[:, :4] = max(size)
    return found / scale
