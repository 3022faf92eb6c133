"""Each class for itself."""

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from recognizer_svc.losses.registry import Loss

if TYPE_CHECKING:
    from torch import Tensor


class SigmoidLoss(Loss):
    """Base of the losses that judge each class for itself: a score is the sigmoid of its logit."""

    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    """Targets become label_smoothing / 2 instead of 0, and 1 - label_smoothing / 2 instead of 1."""

    def scores(self, logits_NC: "Tensor") -> "Tensor":
        return logits_NC.sigmoid()

    def smoothed(self, targets_NC: "Tensor") -> "Tensor":
        return targets_NC * (1 - self.label_smoothing) + self.label_smoothing / 2


class Sigmoid(SigmoidLoss):
    """Binary cross-entropy of each class."""

    kind: Literal["sigmoid"] = "sigmoid"

    def per_class(self, logits_NC: "Tensor", targets_NC: "Tensor") -> "Tensor":
        import torch.nn.functional as F  # noqa: N812

        return F.binary_cross_entropy_with_logits(logits_NC, self.smoothed(targets_NC), reduction="none")
