"""What a head takes of a person's region of the maps. Importing this needs no torch."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Regions:
    """What is taken of a person's region of each map, aligned to roi_size x roi_size cells."""

    roi_size: int
    pooling: Literal["mean_max", "mean", "max"]

    def channels(self, maps: Mapping[str, tuple[int, int, int]]) -> int:
        """Return the length of a person's vector. maps: channels, rows and columns of each."""
        return (2 if self.pooling == "mean_max" else 1) * sum(shape[0] for shape in maps.values())
