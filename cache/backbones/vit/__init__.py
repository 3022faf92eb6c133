"""The video ViT: tubelet tokens through pre-norm transformer blocks (the encoder of VideoMAE)."""

from cache.backbones.registry import Architecture, Backbone


def _load() -> Architecture:
    from cache.backbones.vit.presets import ARCHITECTURE

    return ARCHITECTURE


VIT = Backbone(name="vit", title="the ViT", maps={"vit": ("mean", "moments")}, load=_load, named_in_spec=True)
