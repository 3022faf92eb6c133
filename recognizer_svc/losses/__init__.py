"""The losses: one file each, one line each in this table. Importing it needs no torch."""

from recognizer_svc.losses.asymmetric import Asymmetric
from recognizer_svc.losses.focal import Focal
from recognizer_svc.losses.logit_adjusted import LogitAdjusted
from recognizer_svc.losses.pose_softmax import PoseSoftmax
from recognizer_svc.losses.registry import Loss
from recognizer_svc.losses.sigmoid import Sigmoid
from stal_data.sections import section_of_kind

LOSSES: dict[str, type[Loss]] = {
    "pose_softmax": PoseSoftmax,
    "sigmoid": Sigmoid,
    "focal": Focal,
    "asymmetric": Asymmetric,
    "logit_adjusted": LogitAdjusted,
}
"""By the `loss.kind` of a recipe."""


def loss_of(values: object) -> Loss:
    """Return a recipe's section as the loss of its kind; pydantic's errors name the fields."""
    return section_of_kind(values, Loss, LOSSES, LOSSES.get)


__all__ = ["LOSSES", "Loss", "loss_of"]
