"""Files of timm's models, as their publishers offer them."""

from collections.abc import Mapping

from torch import Tensor

from cache.backbones.fitting import split_off
from cache.backbones.timm.model import TimmConfig

_OURS = "model."


def from_published(tensors: Mapping[str, Tensor], config: TimmConfig) -> tuple[Mapping[str, Tensor], Mapping[str, str]]:
    """Return the tensors under the names of `FramewiseModel`, and the classifier's, left out, as name -> reason."""
    import timm

    if all(name.startswith(_OURS) for name in tensors):
        return tensors, {}
    known = timm.get_pretrained_cfg(config.model)
    classifier = known.classifier if known is not None and known.classifier else ()
    prefixes = (classifier,) if isinstance(classifier, str) else classifier
    kept, ignored = split_off(tensors, [f"{prefix}." for prefix in prefixes], "the model's classifier")
    return {_OURS + name: tensor for name, tensor in kept.items()}, ignored


def download(config: TimmConfig) -> Mapping[str, Tensor]:
    """Return the tensors that timm names for the model, fetched over the network or from its cache."""
    import timm

    return timm.create_model(config.model, pretrained=True, num_classes=0).state_dict()
