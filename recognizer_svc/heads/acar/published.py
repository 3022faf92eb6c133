"""The head inside a whole published checkpoint. Its tensor names are ours; its sizes follow from the shapes."""

from collections.abc import Mapping

from torch import Tensor

from recognizer_svc.heads.acar.config import AcarConfig
from stal_data.errors import InputError

_SIZES_FROM = ("conv_reduce.weight", "conv1.weight", "fc2.weight")


def published_sizes(tensors: Mapping[str, Tensor], source: str) -> tuple[AcarConfig, int]:
    """Return the recipe's head section that fits the tensors, and the number of classes; dropout is the published one.

    source: where the tensors are from, for the error.
    """
    absent = [name for name in _SIZES_FROM if name not in tensors or tensors[name].ndim < 2]
    if absent:
        raise InputError(f"{source} does not hold an ACAR head: {', '.join(absent)} missing or of another shape.")
    layers = {name.split(".")[1] for name in tensors if name.startswith("hr2o.")}
    section = AcarConfig(
        reduce_channels=tensors["conv_reduce.weight"].shape[0],
        context_channels=tensors["conv1.weight"].shape[0],
        depth=len(layers),
    )
    return section, tensors["fc2.weight"].shape[0]
