"""What `infer` takes of a packed model: weights and settings that the command line does not name."""

from collections.abc import Sequence
from dataclasses import replace

import click

from cache.backbones.choice import BackboneChoice
from cli.ui.detector_options import DetectorChoice
from recognizer_svc.packed_models.description import PackedModel
from stal_data.digests import sha256_of
from stal_data.errors import InputError


def backbones_with(model: PackedModel | None, chosen: Sequence[BackboneChoice]) -> tuple[BackboneChoice, ...]:
    """Return the backbones to run: those that were chosen, and of a model those that its head sees besides."""
    if model is None:
        if not chosen:
            raise click.UsageError("--run needs the weights of its backbones: name them, for example with --slowfast")
        return tuple(chosen)
    named = {choice.kind: choice for choice in chosen}
    if unseen := named.keys() - set(model.feature_spec.kinds):
        raise InputError(
            f"'{model.folder}' sees {', '.join(model.feature_spec.kinds)}, not {', '.join(sorted(unseen))}; leave out "
            "the weights of what it does not see."
        )
    found = []
    for spec in model.feature_spec.backbones:
        file = model.backbone_file(spec.kind)
        weights = str(file) if file is not None else None if spec.trained else spec.weights
        if spec.kind not in named and weights is None:
            raise InputError(
                f"'{model.folder}' does not hold the weights of {spec.kind} ({spec.preset}, {spec.weights}); name "
                f"their file with --backbone {spec.kind}:{spec.preset}=FILE, or pack the model with them."
            )
        found.append(named.get(spec.kind) or BackboneChoice(kind=spec.kind, preset=spec.preset, weights=weights))
    return tuple(found)


def detector_with(model: PackedModel | None, chosen: DetectorChoice) -> DetectorChoice:
    """Return which detector to run and how: what was chosen, and of a model what was not."""
    packed = None if model is None else model.detector
    if packed is None:
        if chosen.weights is None:
            raise click.UsageError("name a detector with --detector-weights FILE or --detector HOST:PORT")
        return chosen
    assert model is not None
    if chosen.weights is None:
        file = model.detector_file()
        if file is None:
            raise InputError(
                f"'{model.folder}' does not hold the weights of its detector '{packed.name}' ({packed.digest}); name "
                "their file with --detector-weights."
            )
        return replace(chosen.or_else(packed), weights=file)
    if f"sha256:{sha256_of(chosen.weights)}" != packed.digest:
        click.echo(f"Note: {chosen.weights} is not the detector '{packed.name}' of the model.", err=True)
    return chosen.or_else(packed)
