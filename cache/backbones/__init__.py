"""The backbones: one folder each, one line each in this table. Importing it needs no torch."""

from cache.backbones.registry import Backbone
from cache.backbones.slowfast import SLOWFAST
from cache.backbones.timm import TIMM
from cache.backbones.vit import VIT
from stal_data.errors import InputError, did_you_mean
from stal_data.plugins import allowed_plugin

BACKBONES: dict[str, Backbone] = {backbone.name: backbone for backbone in (SLOWFAST, VIT, TIMM)}
"""By name. A feature set holds their arrays in this order, and then those of plugins (group `stal.backbones`)."""


def backbone_of(name: str) -> Backbone:
    """Return a backbone from the table, or from a plugin that is allowed."""
    found = BACKBONES.get(name) or allowed_plugin("stal.backbones", name)
    if not isinstance(found, Backbone):
        raise InputError(f"There is no backbone '{name}'. {did_you_mean(name, BACKBONES)}")
    return found


__all__ = ["BACKBONES", "Backbone", "backbone_of"]
