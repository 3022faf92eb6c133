"""From what a user names (a file, or `random:SEED`) to a frozen backbone and its spec."""

from dataclasses import asdict, dataclass
from pathlib import Path

from torch import nn

from cache.backbones.architectures import (
    ARCHITECTURES,
    BackboneConfig,
    build_without_weights,
    config_from_json,
    preset_config,
)
from cache.backbones.vit.published import from_published_layout, is_published_layout
from cache.backbones.weights import assign_state, random_state, read_weights, weights_digest
from cache.spec import BackboneKind, BackboneSpec
from stal_data.errors import InputError, shown

RANDOM = "random:"


@dataclass(frozen=True, kw_only=True)
class LoadedBackbone:
    """model: float32 on the CPU, in eval mode, no gradients; takes [B,3,T,H,W] of the spec's height and width."""

    model: nn.Module
    spec: BackboneSpec


def load_backbone(kind: BackboneKind, *, weights: str, preset: str | None = None) -> LoadedBackbone:
    """Return the backbone with the weights.

    weights: path of a safetensors file, or `random:SEED` for untrained ones (the spec says so).
    preset: needed for a file without our metadata unless it is of the published size; elsewhere it must agree.
    """
    if weights.startswith(RANDOM):
        return _load_random(kind, weights, preset or ARCHITECTURES[kind].default_preset)
    path = Path(weights)
    file = read_weights(path)
    found_kind, found_preset = file.metadata.get("kind", kind), file.metadata.get("preset")
    if found_kind != kind:
        raise InputError(f"Weights file {path} is a {found_kind} backbone; a {kind} one is asked for.")
    if preset and found_preset and preset != found_preset:
        raise InputError(f"Weights file {path} has preset '{found_preset}'; '{preset}' is asked for.")
    name = found_preset or preset or ARCHITECTURES[kind].default_preset
    config = (
        config_from_json(kind, file.metadata["config"], str(path))
        if "config" in file.metadata
        else preset_config(kind, name)
    )
    state = file.state
    if kind == "vit" and is_published_layout(state):
        state = from_published_layout(state)
    model = build_without_weights(kind, config)
    assign_state(model, state, f"Weights file {path}")
    # Of the tensors as the model holds them: the same numbers in another layout or dtype are the same backbone.
    digest = weights_digest(model.state_dict())
    return _loaded(model, kind, name, config, weights=f"sha256:{digest}", trained=True)


def _load_random(kind: BackboneKind, weights: str, preset: str) -> LoadedBackbone:
    seed = weights.removeprefix(RANDOM)
    if not (seed.isascii() and seed.isdigit() and len(seed) <= 20):
        raise InputError(
            f"Weights are {shown(weights)}; the seed after '{RANDOM}' must be a whole number of at most 20 digits."
        )
    config = preset_config(kind, preset)
    model = build_without_weights(kind, config)
    assign_state(model, random_state(model, int(seed)), weights)
    return _loaded(model, kind, preset, config, weights=f"{RANDOM}{int(seed)}", trained=False)


def _loaded(
    model: nn.Module, kind: BackboneKind, preset: str, config: BackboneConfig, *, weights: str, trained: bool
) -> LoadedBackbone:
    model.eval().requires_grad_(False)
    spec = BackboneSpec(
        kind=kind,
        preset=preset,
        config=asdict(config),
        weights=weights,
        trained=trained,
        height=config.height,
        width=config.width,
    )
    return LoadedBackbone(model=model, spec=spec)
