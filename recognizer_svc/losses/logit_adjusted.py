"""Logit adjustment: training expects each class as often as it occurs, and scores do not (Menon et al. 2021)."""

from collections.abc import Sequence
from math import log
from typing import TYPE_CHECKING, Literal, Self

from pydantic import Field, PrivateAttr

from recognizer_svc.losses.sigmoid import SigmoidLoss

if TYPE_CHECKING:
    from torch import Tensor


class LogitAdjusted(SigmoidLoss):
    """Binary cross-entropy of each logit plus tau times the logit of the class's prior; scores are without that."""

    kind: Literal["logit_adjusted"] = "logit_adjusted"
    tau: float = Field(default=1.0, ge=0, le=100)

    _prior_logits_C: tuple[float, ...] = PrivateAttr(default=())

    def fitted(self, positives_C: Sequence[float], actors_C: Sequence[float]) -> Self:
        fitted = self.model_copy()
        # One actor more with the class and one without it, so that no prior is 0 or 1.
        counts = zip(positives_C, actors_C, strict=True)
        fitted._prior_logits_C = tuple(log((count + 1) / (actors - count + 1)) for count, actors in counts)
        return fitted

    def per_class(self, logits_NC: "Tensor", targets_NC: "Tensor") -> "Tensor":
        import torch
        import torch.nn.functional as F  # noqa: N812

        assert len(self._prior_logits_C) == logits_NC.shape[1]  # `fitted` comes first
        shift_C = self.tau * torch.tensor(self._prior_logits_C, dtype=logits_NC.dtype)
        adjusted_NC = logits_NC + shift_C.to(logits_NC.device, non_blocking=True)
        return F.binary_cross_entropy_with_logits(adjusted_NC, self.smoothed(targets_NC), reduction="none")
