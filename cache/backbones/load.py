"""From what a user names (a file, or `random:SEED`) to a frozen backbone and its spec."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from cache.backbones import backbone_of
from cache.backbones.architectures import build_without_weights, config_from_json, config_values, preset_config
from cache.backbones.registry import BackboneConfig, Statistics
from cache.backbones.weights import assign_state, random_state, read_weights, weights_digest
from cache.spec import BackboneSpec
from stal_data.errors import InputError, shown

RANDOM = "random:"


@dataclass(frozen=True, kw_only=True)
class LoadedBackbone:
    """model: float32 on the CPU, in eval mode, no gradients; takes [B,3,T,H,W] of the spec's height and width."""

    model: nn.Module
    spec: BackboneSpec


def load_backbone(
    kind: str,
    *,
    weights: str | None,
    preset: str | None = None,
    statistics: Statistics | None = None,
    may_download: bool = False,
) -> LoadedBackbone:
    """Return the backbone with the weights.

    weights: path of a safetensors file, or `random:SEED` for untrained ones (the spec says so); None = those that the
        preset's publisher offers, over the network.
    preset: needed for a file without our metadata unless it is of the published size; elsewhere it must agree.
    statistics: what is kept of its maps; None = what the backbone keeps by default.
    may_download: whether the network may be used.
    """
    architecture = backbone_of(kind).architecture
    if weights is None:
        name = _named(kind, preset)
        if architecture.download is None:
            raise InputError(f"Nobody offers weights of the {kind} backbone '{name}' for download; name a file.")
        if not may_download:
            raise InputError(
                f"No weights are named for the {kind} backbone '{name}', and nothing is downloaded unasked. Name a "
                f"file, {kind}:{name}=FILE, or allow the download with --allow-download."
            )
        config = preset_config(kind, name)
        return _finish(kind, name, config, architecture.download(config), name, statistics)
    if weights.startswith(RANDOM):
        return _load_random(kind, weights, _named(kind, preset), statistics)
    path = Path(weights)
    file = read_weights(path)
    found_kind, found_preset = file.metadata.get("kind", kind), file.metadata.get("preset")
    if found_kind != kind:
        raise InputError(f"Weights file {path} is a {found_kind} backbone; a {kind} one is asked for.")
    if preset and found_preset and preset != found_preset:
        raise InputError(f"Weights file {path} has preset '{found_preset}'; '{preset}' is asked for.")
    name = found_preset or _named(kind, preset)
    config = (
        config_from_json(kind, file.metadata["config"], str(path))
        if "config" in file.metadata
        else preset_config(kind, name)
    )
    return _finish(kind, name, config, file.state, f"Weights file {path}", statistics)


def _named(kind: str, preset: str | None) -> str:
    name = preset or backbone_of(kind).architecture.default_preset
    if name is None:
        raise InputError(f"The {kind} backbone has no default size; name one, {kind}:MODEL=WEIGHTS.")
    return name


def _finish(
    kind: str,
    preset: str,
    config: BackboneConfig,
    tensors: Mapping[str, Tensor],
    source: str,
    statistics: Statistics | None,
) -> LoadedBackbone:
    state, _ = backbone_of(kind).architecture.from_published(tensors, config)
    model = build_without_weights(kind, config)
    assign_state(model, state, source)
    # Of the tensors as the model holds them: the same numbers in another layout or dtype are the same backbone.
    digest = weights_digest(model.state_dict())
    return _loaded(model, kind, preset, config, f"sha256:{digest}", statistics)


def _load_random(kind: str, weights: str, preset: str, statistics: Statistics | None) -> LoadedBackbone:
    seed = weights.removeprefix(RANDOM)
    if not (seed.isascii() and seed.isdigit() and len(seed) <= 20):
        raise InputError(
            f"Weights are {shown(weights)}; the seed after '{RANDOM}' must be a whole number of at most 20 digits."
        )
    config = preset_config(kind, preset)
    model = build_without_weights(kind, config)
    assign_state(model, random_state(model, int(seed)), weights)
    return _loaded(model, kind, preset, config, f"{RANDOM}{int(seed)}", statistics)


def _loaded(
    model: nn.Module, kind: str, preset: str, config: BackboneConfig, weights: str, statistics: Statistics | None
) -> LoadedBackbone:
    model.eval().requires_grad_(False)
    spec = BackboneSpec(
        kind=kind,
        preset=preset,
        config=config_values(config),
        weights=weights,
        trained=not weights.startswith(RANDOM),
        height=config.height,
        width=config.width,
        statistics=statistics or {},
    )
    return LoadedBackbone(model=model, spec=spec)
