"""SlowFast: a slow pathway over few frames and a narrow fast one over all of them, joined at every stage."""

from cache.backbones.registry import Architecture, Backbone


def _load() -> Architecture:
    from cache.backbones.slowfast.presets import ARCHITECTURE

    return ARCHITECTURE


SLOWFAST = Backbone(
    name="slowfast", title="SlowFast", maps={"slow": ("mean",), "fast": ("mean",)}, load=_load, named_in_spec=True
)
