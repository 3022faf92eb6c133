"""A backbone's configuration as text, and the module that it describes."""

import json
from dataclasses import asdict, fields
from typing import Any, cast

import torch
from torch import nn

from cache.backbones import backbone_of
from cache.backbones.registry import BackboneConfig
from cache.spec import BackboneSpec
from stal_data.errors import InputError


def preset_config(kind: str, preset: str) -> BackboneConfig:
    return cast(BackboneConfig, backbone_of(kind).architecture.preset(preset))


def config_values(config: BackboneConfig) -> dict[str, Any]:
    """Return the numbers as they are written (see `registry.LATER`)."""
    values = asdict(cast(Any, config))
    for item in fields(cast(Any, config)):
        if item.metadata.get("later") and values[item.name] == item.default:
            del values[item.name]
    return values


def config_to_json(config: BackboneConfig) -> str:
    return json.dumps(config_values(config), sort_keys=True)


def config_from_json(kind: str, text: str, source: str) -> BackboneConfig:
    """The inverse of `config_to_json`; source: what the text was read from, for the error."""
    try:
        values: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in json.loads(text).items()
        }
        return cast(BackboneConfig, backbone_of(kind).architecture.config(**values))
    except (ValueError, TypeError, AttributeError, ZeroDivisionError) as error:
        raise InputError(f"{source}: its {kind} configuration is not one of this version: {error}") from None


def config_of(spec: BackboneSpec) -> BackboneConfig:
    return config_from_json(spec.kind, json.dumps(spec.config), f"The {spec.kind} spec")


def build_without_weights(kind: str, config: BackboneConfig) -> nn.Module:
    """Return the module with parameters that take no memory (device "meta"); load them with assign=True."""
    with torch.device("meta"):
        return backbone_of(kind).architecture.build(config)
