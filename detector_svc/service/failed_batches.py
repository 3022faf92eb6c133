"""Runs a batch, and decides what becomes of its frames when the model fails on it."""

import logging
from collections.abc import Sequence

import numpy as np
import torch

from detector_svc.detections import FrameDetections
from detector_svc.detector_protocol import Detector, PreparedImage
from stal_data.errors import InputError, StalError
from svc_common.errors import ServiceUnavailableError

log = logging.getLogger(__name__)

_OF_THE_MACHINE = (MemoryError, torch.OutOfMemoryError, torch.AcceleratorError)
"""Never a frame's fault: whatever its image, the model gets an input of the same shape and type."""


def detect_each(
    detector: Detector, images: Sequence[PreparedImage], frame_ids: Sequence[str]
) -> list[FrameDetections | StalError]:
    """Run a batch; the answer to each frame, or why it has none.

    A batch that fails is repeated frame by frame, since it may hold the frames of several clients: InputError is for
    frames that break, twice, a model that works on others. ServiceUnavailableError is for all when it works on none,
    and for a frame that meets a lack of memory or a fault of the device.
    """
    try:
        return list(_detect(detector, images))
    except Exception as error:  # noqa: BLE001 - whatever a model raises
        log.warning("the model fails on a batch of %d (%r); its frames are repeated one by one", len(images), error)
    found = [_attempt(detector, image) for image in images]
    works = any(isinstance(answer, FrameDetections) for answer in found) or _works(detector)
    if works:  # what failed may have been the moment
        found = [
            answer if isinstance(answer, FrameDetections) else _attempt(detector, image)
            for answer, image in zip(found, images, strict=True)
        ]
    return [
        answer if isinstance(answer, FrameDetections) else _refusal(answer, image, frame_id, works=works)
        for answer, image, frame_id in zip(found, images, frame_ids, strict=True)
    ]


def _detect(detector: Detector, images: Sequence[PreparedImage]) -> list[FrameDetections]:
    answers = detector.detect(images)
    if len(answers) != len(images):
        raise RuntimeError(f"the model gave {len(answers)} answers to {len(images)} images")
    return answers


def _attempt(detector: Detector, image: PreparedImage) -> FrameDetections | Exception:
    try:
        return _detect(detector, [image])[0]
    except Exception as error:  # noqa: BLE001 - as above
        return error


def _works(detector: Detector) -> bool:
    try:
        _detect(detector, [detector.prepare(np.zeros((64, 64, 3), np.uint8))])
    except Exception:
        log.exception("the model fails on a blank image, too")
        return False
    return True


def _refusal(error: Exception, image: PreparedImage, frame_id: str, *, works: bool) -> StalError:
    """What the client of a frame hears. works: whether the model takes other images."""
    if not works:
        return ServiceUnavailableError("the model fails on every image; the service's log has the traceback")
    if isinstance(error, _OF_THE_MACHINE):
        log.error("the model cannot run on frame '%s' for now", frame_id, exc_info=error)
        return ServiceUnavailableError(
            "the model has no memory, or its device fails; the service's log has the traceback"
        )
    log.error("the model fails on frame '%s' of %dx%d pixels", frame_id, image.width, image.height, exc_info=error)
    return InputError(
        f"Frame '{frame_id}': the model fails on this image of {image.width}x{image.height} pixels, alone as well. The "
        "detector's log has the traceback; leave the frame out, or replace its image."
    )
