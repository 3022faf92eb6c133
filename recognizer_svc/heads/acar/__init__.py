"""Actor-context-actor relations with high-order reasoning (ACAR, HR2O)."""

from typing import TYPE_CHECKING

from recognizer_svc.heads.acar.config import AcarConfig
from recognizer_svc.heads.registry import Head

if TYPE_CHECKING:
    from torch import nn

    from recognizer_svc.heads.batch import FeatureShapes


def _build(config: AcarConfig, shapes: "FeatureShapes", num_classes: int) -> "nn.Module":
    from recognizer_svc.heads.acar.model import AcarHead

    return AcarHead(config, shapes, num_classes)


ACAR = Head(
    config=AcarConfig,
    build=_build,
    classifier=("fc2.weight", "linear.fc.weight", "linear.fc.bias"),
    statistics=("mean", "slope", "moments"),
)
