"""Any image model of the library timm, applied to single frames of a clip. Its presets are timm's model names."""

from cache.backbones.registry import Architecture, Backbone


def _load() -> Architecture:
    from cache.backbones.timm.presets import ARCHITECTURE

    return ARCHITECTURE


TIMM = Backbone(name="timm", title="the timm model", maps={"timm": ("mean", "moments")}, load=_load, named_size=False)
