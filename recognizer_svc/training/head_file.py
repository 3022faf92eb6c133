"""Head weights without a run: one safetensors file that says what head and which features they are for."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cache.backbones.weights import listed, read_tensors, weights_digest, write_tensors
from recognizer_svc.heads import HeadConfig, build_head, head_config
from recognizer_svc.heads.batch import FeatureShapes
from stal_data.errors import InputError, NotFoundError

METADATA_KEY = "stal_head"


@dataclass(frozen=True, kw_only=True)
class HeadInfo:
    """What a head file says about its tensors.

    section: the recipe's head section they fit; dropout is only the value they were trained with.
    backbones: kind -> `sha256:<hex>` of the backbone weights whose features the head was trained on.
    epoch: epochs it was trained for; None where its source did not say so.
    provenance: where it is from, as JSON values.
    """

    section: HeadConfig
    shapes: FeatureShapes
    num_classes: int
    backbones: Mapping[str, str]
    epoch: int | None
    provenance: Mapping[str, object]


def save_head(
    path: Path, state: Mapping[str, Tensor], info: HeadInfo, progress: Callable[[int, int], None] | None = None
) -> str:
    """Replace the file at `path` atomically and return the digest of its tensors."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    metadata = {
        "section": info.section.model_dump(mode="json"),
        "shapes": info.shapes.to_dict(),
        "num_classes": info.num_classes,
        "backbones": dict(info.backbones),
        "epoch": info.epoch,
        "provenance": dict(info.provenance),
    }
    digest = weights_digest(tensors, progress)
    write_tensors(path, tensors, key=METADATA_KEY, metadata=metadata)
    return digest


def load_head_file(path: Path) -> tuple[HeadInfo, dict[str, Tensor]]:
    """Read a file of `save_head`; a missing, damaged or foreign one is an error that says so."""
    if not path.is_file():
        raise NotFoundError(f"The head file '{path}' does not exist.")
    header, state = read_tensors(path)
    info = head_info(header, str(path))
    with torch.device("meta"):
        expected = build_head(info.section, info.shapes, info.num_classes).state_dict()
    wrong = [
        name
        for name in sorted(expected.keys() | state.keys())
        if name not in state or name not in expected or state[name].shape != expected[name].shape
    ]
    if wrong:
        raise InputError(
            f"'{path}' does not hold the head that it describes; missing, unknown or of another shape: "
            f"{listed(wrong)}. Import it again."
        )
    return info, state


def head_info(header: Mapping[str, str], source: str) -> HeadInfo:
    """What the metadata of a head file say. source: the file, for errors."""
    if METADATA_KEY not in header:
        raise InputError(
            f"'{source}' is no head file of this program; 'stal-cli weights import CHECKPOINT --kind full' makes one "
            "from a whole published checkpoint."
        )
    try:
        values: dict[str, Any] = json.loads(header[METADATA_KEY])
        return HeadInfo(
            section=head_config(values["section"]),
            shapes=FeatureShapes.from_dict(values["shapes"]),
            num_classes=int(values["num_classes"]),
            backbones=dict(values["backbones"]),
            epoch=None if values["epoch"] is None else int(values["epoch"]),
            provenance=dict(values["provenance"]),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"'{source}': its metadata '{METADATA_KEY}' is damaged ({error}); import it again.") from None
