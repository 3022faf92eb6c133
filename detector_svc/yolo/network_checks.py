"""What a network must be to be served, in whatever form its weights came. Shape letters as in `onnx_network`."""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray


class UnfitError(Exception):
    """Why a network cannot be served; the text goes on after `the model`."""


def read_names(value: object) -> dict[int, str]:
    """Return the classes' names by id from what a file holds: a dict, or a list in the order of the ids."""
    named = dict(enumerate(value)) if isinstance(value, list | tuple) else value
    if not isinstance(named, dict) or not named:
        raise UnfitError("has no class names")
    try:
        names = {int(number): str(name) for number, name in named.items()}
    except (ValueError, TypeError, OverflowError):
        names = {}
    if set(names) != set(range(len(named))):
        ids = ", ".join(map(str, named))
        raise UnfitError(f"numbers its classes {ids[:100]}, but ids count from 0 without a gap")
    return names


def check_stride(stride: object) -> int:
    """Return the stride; sides of the network's input are multiples of it."""
    if not isinstance(stride, int) or not 0 < stride <= 4096:
        raise UnfitError(f"has the stride {stride}")
    return stride


def trained_size(value: object) -> tuple[int, int]:
    """Return height and width from what a file says of its training: one side, or two.

    180x320 where it says nothing, which is the default of `detector train`: its files did not say it before.
    """
    match value:
        case int(side) | [int(side)]:
            size = side, side
        case [int(height), int(width)]:
            size = height, width
        case _:
            size = 180, 320
    return size


def check_output(
    run: Callable[[NDArray[np.uint8]], object], size: tuple[int, int, int], *, num_classes: int, end2end: bool
) -> None:
    """Run a network on grey images; an output that is not a detection head's is an error.

    size: images, and their height and width. end2end: as in `yolo_detector.Network`.
    """
    try:
        found = run(np.full((*size, 3), 127, np.uint8))
    except Exception as error:  # whatever a network says that does not fit its own metadata
        reason = str(error).splitlines()[0] if str(error) else "no reason given"
        raise UnfitError(f"fails on a grey image of {size[1]}x{size[2]} ({type(error).__name__}: {reason})") from error
    channels = 4 + num_classes
    expected = "[B, N, 6]" if end2end else f"[B, {channels}, A]"
    if not isinstance(found, torch.Tensor):
        raise UnfitError(f"puts out a {type(found).__name__}, not {expected}")
    if found.ndim != 3 or (found.shape[2] != 6 if end2end else found.shape[1] != channels):
        kind = " as RT-DETR does" if found.ndim == 3 and found.shape[2] == channels else ""
        raise UnfitError(f"puts out {list(found.shape)}{kind}, not {expected} for its {num_classes} classes")
    if not torch.isfinite(found).all():
        raise UnfitError("puts out a value that is not finite for a grey image")
    boxes = found[..., :4] if end2end else found[:, :4]
    # Anchors lie all over the input: of a head that counts pixels some box ends far from the corner.
    if boxes.numel() and boxes.abs().max() <= 2:
        raise UnfitError("puts out boxes in shares of its input, not in pixels")
