"""The focal loss of RetinaNet: classes that are judged well already count less (Lin et al. 2017)."""

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from recognizer_svc.losses.sigmoid import SigmoidLoss

if TYPE_CHECKING:
    from torch import Tensor


class Focal(SigmoidLoss):
    """With p the score: -(1-p)^gamma log p where the actor performs the class, -p^gamma log(1-p) where not."""

    kind: Literal["focal"] = "focal"
    gamma: float = Field(default=2.0, ge=0, le=100)
    alpha: float | None = Field(default=None, gt=0, lt=1)
    """Weight of classes that are performed, 1 - alpha of the others; None = both 1. RetinaNet takes 0.25."""

    def per_class(self, logits_NC: "Tensor", targets_NC: "Tensor") -> "Tensor":
        import torch.nn.functional as F  # noqa: N812

        targets_NC = self.smoothed(targets_NC)
        log_p_NC, log_not_NC = F.logsigmoid(logits_NC), F.logsigmoid(-logits_NC)
        # exp(gamma log) instead of a power, whose gradient at 0 may be infinite.
        positive_NC = -(self.gamma * log_not_NC).exp() * log_p_NC
        negative_NC = -(self.gamma * log_p_NC).exp() * log_not_NC
        of_positive, of_negative = (1.0, 1.0) if self.alpha is None else (self.alpha, 1 - self.alpha)
        loss_NC = of_positive * targets_NC * positive_NC + of_negative * (1 - targets_NC) * negative_NC
        return loss_NC + 0 * logits_NC  # not finite where the logit is not
