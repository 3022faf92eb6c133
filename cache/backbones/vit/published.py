"""The published VideoMAE v2 layout of the encoder's tensors, turned into the one of `VideoViT`.

Published: the bias of q and v as `attn.q_bias` and `attn.v_bias` (k has none), and the classifier `fc_norm` (`norm` in
the files of the pre-training), `head`.
Here: one `attn.qkv.bias` = q_bias, zeros, v_bias, and no classifier.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from cache.backbones.fitting import split_off

CLASSIFIER = ("fc_norm.", "norm.", "head.")


PREFIX = "backbone.submodule."
"""Of the ViT's tensors in a whole published checkpoint, after the DataParallel prefix of them all."""


def from_published(tensors: Mapping[str, Tensor], _config: object) -> tuple[Mapping[str, Tensor], Mapping[str, str]]:
    """Return the encoder's tensors under the names of `VideoViT`, and what is left out as name -> reason.

    Tensors without a counterpart keep their name, so a file of ours comes back as it is.
    """
    kept, ignored = split_off(tensors, CLASSIFIER, "classifier of the pre-training; the features end before it")
    converted = {}
    for name, tensor in kept.items():
        prefix, _, leaf = name.rpartition(".")
        if leaf == "q_bias" and f"{prefix}.v_bias" in kept:
            converted[f"{prefix}.qkv.bias"] = torch.cat([tensor, torch.zeros_like(tensor), kept[f"{prefix}.v_bias"]])
        elif leaf != "v_bias" or f"{prefix}.q_bias" not in kept:
            converted[name] = tensor
    return converted, ignored
