"""From a recipe's head section to a module."""

from torch import nn

from recognizer_svc.heads.acar.model import AcarConfig, AcarHead
from recognizer_svc.heads.batch import FeatureShapes
from recognizer_svc.heads.linear.model import LinearConfig, LinearHead
from recognizer_svc.training.recipe import AcarHead as AcarSection
from recognizer_svc.training.recipe import LinearHead as LinearSection


def build_head(section: AcarSection | LinearSection, shapes: FeatureShapes, num_classes: int) -> nn.Module:
    """Return a newly initialised head; the caller seeds torch. Its forward takes a HeadBatch, returns [N, classes]."""
    sizes = section.model_dump(exclude={"kind"})
    if section.kind == "acar":
        return AcarHead(AcarConfig(shapes=shapes, num_classes=num_classes, **sizes))
    return LinearHead(LinearConfig(shapes=shapes, num_classes=num_classes, **sizes))
