"""The backbones: one folder each, one line each in this table. Importing it needs no torch."""

from cache.backbones.registry import Backbone
from cache.backbones.slowfast import SLOWFAST
from cache.backbones.timm import TIMM
from cache.backbones.vit import VIT
from stal_data.errors import InputError, did_you_mean

BACKBONES: dict[str, Backbone] = {backbone.name: backbone for backbone in (SLOWFAST, VIT, TIMM)}
"""By name. A feature set holds their arrays in this order."""


def backbone_of(name: str) -> Backbone:
    if name not in BACKBONES:
        raise InputError(f"There is no backbone '{name}'. {did_you_mean(name, BACKBONES)}")
    return BACKBONES[name]


__all__ = ["BACKBONES", "Backbone", "backbone_of"]
