"""What a head declares. Importing this needs no torch."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cache.statistics import StatisticName
from recognizer_svc.heads.regions import Regions
from stal_data.sections import Section

if TYPE_CHECKING:
    from torch import nn

    from recognizer_svc.heads.batch import FeatureShapes


class HeadConfig(Section):
    """The section `head` of a recipe: everything about a head but the features and the classes that it is for."""

    kind: str


@dataclass(frozen=True, kw_only=True)
class Head:
    """One kind of head.

    config: its section of a recipe; a subclass whose `kind` is the head's name.
    build: from a config, the shapes of the features and the number of classes to a newly initialised module; the caller
        seeds torch. Its forward takes a HeadBatch and returns logits [N, classes].
    statistics: of the maps, those that it is given unless `data.statistics` says otherwise.
    classifier: the tensors whose shape follows from the label map; a config may leave some out.
    sees_neighbours: whether it takes `neighbour_boxes_NK4` and `neighbour_row_NK` of a batch, so that a recipe may set
        `data.neighbours`.
    bank: how the vectors of its feature bank are made, so that a recipe may set `data.bank_s`; None = it has none.
    """

    config: type[HeadConfig]
    build: "Callable[[Any, FeatureShapes, int], nn.Module]"
    classifier: tuple[str, ...]
    statistics: tuple[StatisticName, ...] = ("mean", "moments")
    sees_neighbours: bool = False
    bank: Callable[[Any], Regions] | None = None
