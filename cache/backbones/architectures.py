"""What a backbone kind is: its configuration, its module, its presets."""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from cache.backbones.slowfast.model import SlowFast, SlowFastConfig
from cache.backbones.slowfast.presets import PRESETS as SLOWFAST_PRESETS
from cache.backbones.vit.model import VideoViT, ViTConfig
from cache.backbones.vit.presets import PRESETS as VIT_PRESETS
from cache.spec import BackboneKind
from stal_data.errors import InputError, NotFoundError, did_you_mean

BackboneConfig = SlowFastConfig | ViTConfig


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """presets: by name; default_preset: the published size."""

    config: type[SlowFastConfig] | type[ViTConfig]
    module: Callable[[Any], nn.Module]
    presets: Mapping[str, BackboneConfig]
    default_preset: str


ARCHITECTURES: dict[BackboneKind, Architecture] = {
    "slowfast": Architecture(config=SlowFastConfig, module=SlowFast, presets=SLOWFAST_PRESETS, default_preset="r50"),
    "vit": Architecture(config=ViTConfig, module=VideoViT, presets=VIT_PRESETS, default_preset="giant"),
}


def preset_config(kind: BackboneKind, preset: str) -> BackboneConfig:
    presets = ARCHITECTURES[kind].presets
    if preset not in presets:
        raise NotFoundError(f"There is no {kind} preset '{preset}'. {did_you_mean(preset, presets)}")
    return presets[preset]


def config_to_json(config: BackboneConfig) -> str:
    return json.dumps(asdict(config), sort_keys=True)


def config_from_json(kind: BackboneKind, text: str, source: str) -> BackboneConfig:
    """The inverse of `config_to_json`; source: what the text was read from, for the error."""
    try:
        values: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in json.loads(text).items()
        }
        return ARCHITECTURES[kind].config(**values)
    except (ValueError, TypeError, AttributeError) as error:
        raise InputError(f"{source}: its {kind} configuration is not one of this version: {error}") from None


def build_without_weights(kind: BackboneKind, config: BackboneConfig) -> nn.Module:
    """Return the module with parameters that take no memory (device "meta"); load them with assign=True."""
    with torch.device("meta"):
        return ARCHITECTURES[kind].module(config)
