"""The asymmetric loss: absent classes, which are most, count less than present ones (Ridnik et al. 2021)."""

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from recognizer_svc.losses.sigmoid import SigmoidLoss

if TYPE_CHECKING:
    from torch import Tensor


class Asymmetric(SigmoidLoss):
    """-(1-p)^gamma_positive log p where the actor performs the class; where not, -q^gamma_negative log(1-q).

    p is the score, and q = max(p - clip, 0). Gradients flow through the powers, too.
    """

    kind: Literal["asymmetric"] = "asymmetric"
    gamma_positive: float = Field(default=0.0, ge=0, le=100)
    gamma_negative: float = Field(default=4.0, ge=0, le=100)
    clip: float = Field(default=0.05, ge=0, lt=1)
    """A class that is not performed and scores less costs nothing."""

    def per_class(self, logits_NC: "Tensor", targets_NC: "Tensor") -> "Tensor":
        import torch
        import torch.nn.functional as F  # noqa: N812

        targets_NC = self.smoothed(targets_NC)
        log_not_NC = F.logsigmoid(-logits_NC)
        positive_NC = -(self.gamma_positive * log_not_NC).exp() * F.logsigmoid(logits_NC)
        # log(1-q) = log(1-p + clip), at most 0; clip 0 has the logarithm -inf, which adds nothing.
        clip = torch.full_like(log_not_NC, self.clip)
        log_not_q_NC = torch.logaddexp(log_not_NC, clip.log()).clamp_max(0)
        # Above 0, where the gradient of the power may be infinite.
        q_NC = (-log_not_q_NC.expm1()).clamp_min(torch.finfo(logits_NC.dtype).tiny)
        negative_NC = -(q_NC**self.gamma_negative) * log_not_q_NC
        loss_NC = targets_NC * positive_NC + (1 - targets_NC) * negative_NC
        return loss_NC + 0 * logits_NC  # not finite where the logit is not
