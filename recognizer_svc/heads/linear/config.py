"""The sizes of the linear head: the section `head` of a recipe."""

from typing import Literal

from pydantic import Field

from recognizer_svc.heads.registry import HeadConfig


class LinearConfig(HeadConfig):
    """Sizes of the head."""

    kind: Literal["linear"] = "linear"
    roi_size: int = Field(default=7, ge=1, le=64)
    standardise: bool = True
    """Bring each channel of an actor's vector to mean 0 and variance 1 (BatchNorm without scale and shift)."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
