"""The published VideoMAE v2 layout of the encoder's tensors, turned into the one of `VideoViT`.

Published: the bias of q and v as `attn.q_bias` and `attn.v_bias` (k has none), and the classifier `fc_norm` (`norm` in
the files of the pre-training), `head`.
Here: one `attn.qkv.bias` = q_bias, zeros, v_bias, and no classifier.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

CLASSIFIER = ("fc_norm.", "norm.", "head.")


def is_published_layout(names: Mapping[str, object]) -> bool:
    """True if any of the tensor names exists in the published layout only."""
    return any(name.endswith(".attn.q_bias") or name.startswith(CLASSIFIER) for name in names)


def from_published_layout(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the encoder's tensors under the names of `VideoViT`; those without a counterpart keep their name."""
    converted = {}
    for name, tensor in state.items():
        if name.startswith(CLASSIFIER):
            continue
        prefix, _, leaf = name.rpartition(".")
        if leaf == "q_bias" and f"{prefix}.v_bias" in state:
            converted[f"{prefix}.qkv.bias"] = torch.cat([tensor, torch.zeros_like(tensor), state[f"{prefix}.v_bias"]])
        elif leaf != "v_bias" or f"{prefix}.q_bias" not in state:
            converted[name] = tensor
    return converted
