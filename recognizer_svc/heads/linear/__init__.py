"""One linear layer on an actor's own features: the baseline."""

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from recognizer_svc.heads.registry import Head, HeadConfig

if TYPE_CHECKING:
    from torch import nn

    from recognizer_svc.heads.batch import FeatureShapes


class LinearConfig(HeadConfig):
    """Sizes of the head."""

    kind: Literal["linear"] = "linear"
    roi_size: int = Field(default=7, ge=1, le=64)
    standardise: bool = True
    """Bring each channel of an actor's vector to mean 0 and variance 1 (BatchNorm without scale and shift)."""
    dropout: float = Field(default=0.0, ge=0, lt=1)


def _build(config: LinearConfig, shapes: "FeatureShapes", num_classes: int) -> "nn.Module":
    from recognizer_svc.heads.linear.model import LinearHead

    return LinearHead(config, shapes, num_classes)


LINEAR = Head(config=LinearConfig, build=_build, classifier=("fc.weight", "fc.bias"))
