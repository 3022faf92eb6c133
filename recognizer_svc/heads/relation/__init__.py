"""The relation head: an actor's own region, and what it is to the others of its clip."""

from operator import attrgetter
from typing import TYPE_CHECKING

from recognizer_svc.heads.registry import Head
from recognizer_svc.heads.relation.config import RelationConfig

if TYPE_CHECKING:
    from torch import nn

    from recognizer_svc.heads.batch import FeatureShapes


def _build(config: RelationConfig, shapes: "FeatureShapes", num_classes: int) -> "nn.Module":
    from recognizer_svc.heads.relation.model import RelationHead

    return RelationHead(config, shapes, num_classes)


RELATION = Head(
    config=RelationConfig,
    build=_build,
    classifier=("classes.weight", "classes.bias", "linear_skip.weight"),
    statistics=("mean", "max", "slope"),
    sees_neighbours=True,
    bank=attrgetter("regions"),
)
