"""Sizes of timm's models: what timm says of them, and what one frame shows."""

from collections.abc import Sequence
from typing import Any, cast

import torch

from cache.backbones.registry import Architecture
from cache.backbones.timm.model import FramewiseModel, TimmConfig, check_model, last_map
from cache.backbones.timm.published import download, from_published
from stal_data.errors import InputError


def timm_config(name: str) -> TimmConfig:
    """Return the config of a model by timm's name, such as resnet18 or vit_small_patch16_224.augreg_in1k."""
    import timm

    check_model(name)
    model = timm.create_model(name, pretrained=False, num_classes=0).eval()
    if not hasattr(model, "forward_intermediates"):
        raise InputError(f"timm's model '{name}' does not give out its feature maps; choose another one.")
    known = cast(dict[str, Any], model.pretrained_cfg)
    _, height, width = known["input_size"]
    frame_1CHW = torch.zeros(1, 3, height, width)
    with torch.inference_mode():
        try:
            norm, map_1CHW = True, last_map(model, frame_1CHW, norm=True)
        except AssertionError:  # what models say that cannot
            norm, map_1CHW = False, last_map(model, frame_1CHW, norm=False)
    _, channels, rows, columns = map_1CHW.shape
    return TimmConfig(
        model=name,
        height=height,
        width=width,
        mean=_three(known["mean"]),
        std=_three(known["std"]),
        norm=norm,
        channels=channels,
        rows=rows,
        columns=columns,
    )


def _three(values: Sequence[float]) -> tuple[float, float, float]:
    red, green, blue = values
    return red, green, blue


ARCHITECTURE = Architecture(
    config=TimmConfig,
    build=FramewiseModel,
    preset=timm_config,
    default_preset=None,
    from_published=from_published,
    download=download,
)
