"""The sizes of the relation head: the section `head` of a recipe."""

from typing import Literal

from pydantic import Field

from recognizer_svc.heads.regions import Regions
from recognizer_svc.heads.registry import HeadConfig
from stal_data.sections import MAX_CHANNELS


class RelationConfig(HeadConfig):
    """Sizes and parts of the head."""

    kind: Literal["relation"] = "relation"
    roi_size: int = Field(default=7, ge=1, le=64)
    pooling: Literal["mean_max", "mean", "max"] = "mean_max"
    """What is taken of an actor's region of each map."""
    channels: int = Field(default=96, ge=1, le=MAX_CHANNELS)
    """Of an actor's vector and of a pair's."""
    relation: Literal["pairs", "attention", "none"] = "pairs"
    """How an actor meets the others of its clip: the maximum over pairs, attention, or not at all."""
    geometry: bool = True
    """Whether a pair knows where the other is and how large; only for pairs."""
    linear_skip: bool = False
    """Add a linear layer from the regions straight to the classes."""
    dropout: float = Field(default=0.2, ge=0, lt=1)

    @property
    def regions(self) -> Regions:
        return Regions(roi_size=self.roi_size, pooling=self.pooling)
