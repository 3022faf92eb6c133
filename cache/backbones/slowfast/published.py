"""The published SlowFast files: their tensors have our names already."""

from collections.abc import Mapping

from torch import Tensor

PREFIX = "backbone.module."
"""Of SlowFast's tensors in a whole published checkpoint, after the DataParallel prefix of them all."""


def from_published(tensors: Mapping[str, Tensor], _config: object) -> tuple[Mapping[str, Tensor], Mapping[str, str]]:
    """Return the tensors, and none that is left out."""
    return tensors, {}
