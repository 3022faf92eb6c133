"""Each class for itself."""

from typing import TYPE_CHECKING, Literal

from recognizer_svc.losses.registry import Loss

if TYPE_CHECKING:
    from torch import Tensor


class Sigmoid(Loss):
    """Binary cross-entropy of each class."""

    kind: Literal["sigmoid"] = "sigmoid"

    def scores(self, logits_NC: "Tensor") -> "Tensor":
        return logits_NC.sigmoid()

    def per_class(self, logits_NC: "Tensor", targets_NC: "Tensor") -> "Tensor":
        import torch.nn.functional as F  # noqa: N812

        return F.binary_cross_entropy_with_logits(logits_NC, targets_NC, reduction="none")
