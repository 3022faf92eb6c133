"""The published layouts of VideoMAE's encoder, turned into the one of `VideoViT`.

VideoMAE v1 and v2: blocks as here, but the bias of q and v as `attn.q_bias` and `attn.v_bias` (k has none). Files of
the pre-training put `encoder.` before them, Hugging Face's files of v2 `model.`.
Hugging Face's transformers: other names (`_RENAMED`), with q, k and v as a tensor each.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from cache.backbones.fitting import split_off
from cache.backbones.normalisation import IMAGENET_MEAN
from cache.backbones.vit.model import ViTConfig, position_table
from stal_data.errors import InputError

BEHIND = (
    *("fc_norm.", "norm.", "head.", "classifier.", "layernorm."),  # the classifier
    *("decoder.", "encoder_to_decoder.", "mask_token"),  # what the pre-training puts together again
)

PREFIX = "backbone.submodule."
"""Of the ViT's tensors in a whole published checkpoint, after the DataParallel prefix of them all."""

_RENAMED = {
    "embeddings.patch_embeddings.projection.": "patch_embed.proj.",
    "embeddings.": "patch_embed.",
    "encoder.layer.": "blocks.",
    ".attention.attention.query.bias": ".attn.q_bias",
    ".attention.attention.value.bias": ".attn.v_bias",
    ".attention.attention.": ".attn.",
    ".attention.output.dense.": ".attn.proj.",
    ".intermediate.dense.": ".mlp.fc1.",
    ".output.dense.": ".mlp.fc2.",
    ".layernorm_before.": ".norm1.",
    ".layernorm_after.": ".norm2.",
}
"""Of transformers; in order, because the shorter names are parts of longer ones."""


def from_published(tensors: Mapping[str, Tensor], config: ViTConfig) -> tuple[Mapping[str, Tensor], Mapping[str, str]]:
    """Return the encoder's tensors under the names of `VideoViT`, and what is left out as name -> reason.

    Tensors without a counterpart keep their name, so a file of ours comes back as it is.
    """
    named = {_plain(name): name for name in tensors}
    if twice := tensors.keys() - set(named.values()):
        raise InputError(f"These tensors are there twice, under different prefixes: {', '.join(sorted(twice)[:8])}.")
    foreign = next((name for name in tensors if name.startswith(("model.", "videomae.", "embeddings."))), None)
    if foreign is not None and config.mean != IMAGENET_MEAN:
        raise InputError(
            f"'{foreign}' is a name of Hugging Face's VideoMAE files, whose networks see pixels minus "
            f"{', '.join(map(str, IMAGENET_MEAN))}; this preset subtracts {', '.join(map(str, config.mean))}. Use a "
            "preset videomae-SIZE."
        )
    kept, left_out = split_off(
        {plain: tensors[name] for plain, name in named.items()},
        BEHIND,
        "behind the encoder's last block, where the features end",
    )
    ignored = {named[plain]: reason for plain, reason in left_out.items()}
    if (positions := kept.pop("pos_embed", None)) is not None:
        table = position_table(config)
        found = positions.float().flatten()
        if found.shape != table.flatten().shape or not torch.allclose(found, table.flatten(), atol=1e-3):
            raise InputError(
                f"'{named['pos_embed']}' holds positions that are not the fixed table of this preset ({len(table)} "
                "tokens); networks with learned positions, or for other frames or sizes, are not read."
            )
        ignored[named["pos_embed"]] = "the fixed positions, which are made anew"
    return _joined(kept), ignored


def _plain(name: str) -> str:
    for prefix in ("model.", "videomae."):
        name = name.removeprefix(prefix)
    if name.startswith(("embeddings.", "encoder.layer.")):
        for theirs, ours in _RENAMED.items():
            name = name.replace(theirs, ours)
    return name.removeprefix("encoder.")


def _joined(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Put q, k and v together where they are apart; what cannot be stays as it is, for the error that lists it."""
    joined = dict(tensors)
    for name, first in tensors.items():
        attention, _, part = name.partition(".attn.")
        kind = {"q_bias": "bias", "query.weight": "weight"}.get(part)
        parts = ("q_bias", "v_bias") if kind == "bias" else ("query.weight", "key.weight", "value.weight")
        found = [tensors[whole] for each in parts if (whole := f"{attention}.attn.{each}") in tensors]
        if kind is None or [item.shape for item in found] != [first.shape] * len(parts) or first.ndim == 0:
            continue
        for each in parts:
            del joined[f"{attention}.attn.{each}"]
        if kind == "bias":
            found.insert(1, torch.zeros_like(first))
        joined[f"{attention}.attn.qkv.{kind}"] = torch.cat(found)
    return joined
