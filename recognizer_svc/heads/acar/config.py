"""The sizes of the ACAR head: the section `head` of a recipe."""

from typing import Literal

from pydantic import Field

from recognizer_svc.heads.registry import HeadConfig
from stal_data.sections import MAX_CHANNELS


class AcarConfig(HeadConfig):
    """Sizes and parts of the head; the defaults are the published ones."""

    kind: Literal["acar"] = "acar"
    reduce_channels: int = Field(default=1024, ge=1, le=MAX_CHANNELS)
    """Channels of the fused map and of an actor's vector."""
    context_channels: int = Field(default=512, ge=1, le=MAX_CHANNELS)
    """Channels of the actor-context maps and of the HR2O layers."""
    depth: int = Field(default=2, ge=0, le=100)
    """Number of HR2O layers."""
    dropout: float = Field(default=0.2, ge=0, lt=1)
    roi_size: int = Field(default=7, ge=1, le=64)
    pooling: Literal["max", "mean", "mean_max"] = "max"
    """What is taken of an actor's region of the fused map."""
    standardise: bool = False
    """Bring each channel of the fused map to mean 0 and variance 1 (BatchNorm without scale and shift)."""
    linear_skip: bool = False
    """Add the linear head: from an actor's own region straight to the classes."""
