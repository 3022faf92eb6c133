"""One linear layer on an actor's own features: the baseline."""

from typing import TYPE_CHECKING

from recognizer_svc.heads.linear.config import LinearConfig
from recognizer_svc.heads.registry import Head

if TYPE_CHECKING:
    from torch import nn

    from recognizer_svc.heads.batch import FeatureShapes


def _build(config: LinearConfig, shapes: "FeatureShapes", num_classes: int) -> "nn.Module":
    from recognizer_svc.heads.linear.model import LinearHead

    return LinearHead(config, shapes, num_classes)


LINEAR = Head(config=LinearConfig, build=_build, classifier=("fc.weight", "fc.bias"))
