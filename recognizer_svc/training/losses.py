"""Losses and the scores that belong to them. N actors, C classes."""

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from recognizer_svc.training.recipe import PoseSoftmaxLoss, SigmoidLoss
from stal_data.errors import InputError

LossSection = PoseSoftmaxLoss | SigmoidLoss


def check_loss(section: LossSection, num_classes: int) -> None:
    """Refuse a loss that does not fit the label map."""
    if section.kind == "pose_softmax" and section.num_poses > num_classes:
        raise InputError(
            f"loss.num_poses is {section.num_poses}, but the label map has {num_classes} classes; "
            "choose at most that many, or loss.kind=sigmoid."
        )


def scores(section: LossSection, logits_NC: Tensor) -> Tensor:
    """Return scores in [0,1]; under pose_softmax the first classes of each actor add up to 1."""
    if section.kind == "sigmoid":
        return torch.sigmoid(logits_NC)
    poses, others = logits_NC[:, : section.num_poses], logits_NC[:, section.num_poses :]
    return torch.cat([torch.softmax(poses, dim=1), torch.sigmoid(others)], dim=1)


def loss_sum(section: LossSection, logits_NC: Tensor, targets_NC: Tensor) -> Tensor:
    """Return the sum over actors of each actor's mean binary cross-entropy over the classes; 0 without actors.

    targets_NC: float32, 1 where the actor performs the class, else 0.
    """
    if section.kind == "sigmoid":
        losses_NC = F.binary_cross_entropy_with_logits(logits_NC, targets_NC, reduction="none")
    else:
        # On NaN this function raises on one rank alone, and the others would wait for it; the NaN is put back after.
        probabilities_NC = torch.nan_to_num(scores(section, logits_NC), nan=0.5)
        losses_NC = F.binary_cross_entropy(probabilities_NC, targets_NC, reduction="none") + 0 * logits_NC
    return losses_NC.sum() / logits_NC.shape[1]
