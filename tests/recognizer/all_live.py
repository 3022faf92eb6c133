"""A training step of SlowFast and the head without any cache: both backbones live, full-time features, in float64."""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from cache.backbones.load import load_backbone
from recognizer_svc.training.joint.model import JointModel
from stal_data.clips import clip_frames
from stal_data.keyframes import KeyFrame
from tests.recognizer.joint_store import VIT_WEIGHTS
from tests.recognizer.plain_head import PlainHead


@dataclass(frozen=True)
class LiveStep:
    """loss: mean over the actors. gradients: by parameter name of the JointModel."""

    loss: float
    gradients: Mapping[str, Tensor]


def read_clip(frames: Path, key: KeyFrame, window: tuple[int, int], *, height: int, width: int, flip: bool) -> Tensor:
    """[3, T, H, W] float64, from the files."""
    images = []
    for number in clip_frames(window):
        image = Image.open(frames / key.video / f"{key.video}_{number:06d}.png").convert("RGB")
        image = image.resize((width, height), Image.Resampling.BILINEAR)
        images.append(image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if flip else image)
    pixels_THW3 = torch.from_numpy(np.stack([np.asarray(image) for image in images])).double()
    return ((pixels_THW3 / 255 - 0.45) / 0.225).permute(3, 0, 1, 2)


def all_live_step(
    model: JointModel,
    plain_head: PlainHead,
    frames: Path,
    *,
    keys: Sequence[KeyFrame],
    windows: Sequence[tuple[int, int]],
    mirrored: Sequence[bool],
    rois_N5: Tensor,
    targets_NC: Tensor,
) -> LiveStep:
    """Compute loss and gradients of a step with the model's weights; the model is left alone."""
    head = plain_head.double()
    head.load_state_dict(model.head.state_dict())
    head.train()
    slowfast = deepcopy(model.backbone).double().train()
    for module in slowfast.modules():
        if isinstance(module, nn.BatchNorm3d):
            module.eval()
    vit = load_backbone("vit", weights=VIT_WEIGHTS, preset="tiny").model.double()

    def clips(height: int, width: int) -> Tensor:
        return torch.stack(
            [
                read_clip(frames, key, window, height=height, width=width, flip=flip)
                for key, window, flip in zip(keys, windows, mirrored, strict=True)
            ]
        )

    slow, fast = slowfast(clips(32, 48)).values()
    with torch.no_grad():
        grid = vit(clips(48, 64))["vit"]
    logits_NC = head(slow, fast, grid, rois_N5.double())
    loss = F.binary_cross_entropy_with_logits(logits_NC, targets_NC.double())
    loss.backward()
    found = {f"backbone.{name}": parameter.grad for name, parameter in slowfast.named_parameters()}
    found |= {f"head.{name}": parameter.grad for name, parameter in head.named_parameters()}
    return LiveStep(loss=loss.item(), gradients=found)
