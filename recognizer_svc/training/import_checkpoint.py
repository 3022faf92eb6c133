"""A published checkpoint, of one backbone or whole, as our weight files."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from cache.backbones.architectures import ARCHITECTURES, BackboneConfig, preset_config
from cache.backbones.fitting import Fit, fit_tensors
from cache.backbones.foreign import ForeignCheckpoint, read_foreign
from cache.backbones.importing import ImportedFile, PreparedBackbone, Progress, prepare_backbone
from cache.backbones.slowfast.model import SlowFastConfig
from cache.backbones.vit.model import ViTConfig
from cache.spec import KINDS, BackboneKind
from recognizer_svc.heads.acar.published import published_sizes
from recognizer_svc.heads.batch import FeatureShapes
from recognizer_svc.heads.build import build_head
from recognizer_svc.training.head_file import HeadInfo, save_head
from recognizer_svc.training.recipe import AcarHead
from stal_data.digests import sha256_of
from stal_data.errors import InputError

CheckpointKind = Literal["slowfast", "vit", "full"]

PREFIXES: dict[str, str] = {"slowfast": "backbone.module.", "vit": "backbone.submodule.", "head": "head.module."}
"""Of the tensors in a whole published checkpoint, after the DataParallel prefix of them all."""

_SHOWN = 3


@dataclass(frozen=True, kw_only=True)
class Import:
    """What an import wrote, and what it left out: entries of the file as name -> reason."""

    files: tuple[ImportedFile, ...]
    ignored: Mapping[str, str]
    epoch: int | None


def import_checkpoint(
    path: Path,
    kind: CheckpointKind,
    output: Path,
    *,
    slowfast: tuple[str, BackboneConfig] | None = None,
    vit: tuple[str, BackboneConfig] | None = None,
    skip_objects: bool = False,
    progress: Progress | None = None,
) -> Import:
    """Read a published checkpoint and write slowfast.safetensors, vit.safetensors, head.safetensors into a folder.

    kind: what the file holds; `full` = both backbones and the head.
    slowfast, vit: preset name and architecture; None = the published size.
    """
    checkpoint = read_foreign(path, skip_objects=skip_objects)
    whole = [name for name in checkpoint.tensors if name.startswith((PREFIXES["slowfast"], PREFIXES["vit"]))]
    if kind != "full" and whole:
        raise InputError(f"'{path}' is a whole checkpoint (it holds {whole[0]}); import it with --kind full.")
    absent = [prefix for prefix in PREFIXES.values() if not any(name.startswith(prefix) for name in checkpoint.tensors)]
    if kind == "full" and absent:
        others = [name for name in checkpoint.tensors if not name.startswith(tuple(PREFIXES.values()))]
        raise InputError(
            f"'{path}' is no whole checkpoint: no tensor is under {', '.join(absent)}"
            + (f"; elsewhere are {', '.join(others[:_SHOWN])}. " if others else ". ")
            + "Import a backbone alone with --kind slowfast or --kind vit."
        )
    sizes: dict[BackboneKind, tuple[str, BackboneConfig]] = {
        "slowfast": slowfast or _default("slowfast"),
        "vit": vit or _default("vit"),
    }
    parts, strangers = _parts(checkpoint, kind)
    backbones, head = _prepare(f"'{path}'", parts, sizes)
    reading = None if progress is None else partial(progress, f"reading {path.name}")
    provenance = {"imported_from": path.name, "source_sha256": sha256_of(path, reading)}
    files = [item.write(output / f"{item.kind}.safetensors", provenance, progress) for item in backbones]
    if head is not None:
        info = HeadInfo(
            section=head.section,
            shapes=head.shapes,
            num_classes=head.num_classes,
            backbones={file.path.stem: f"sha256:{file.digest}" for file in files},
            epoch=checkpoint.epoch,
            provenance=provenance,
        )
        files.append(_write_head(output / "head.safetensors", head, info, progress))
    return Import(files=tuple(files), ignored=dict(checkpoint.ignored) | strangers, epoch=checkpoint.epoch)


@dataclass(frozen=True, kw_only=True)
class _PreparedHead:
    section: AcarHead
    shapes: FeatureShapes
    num_classes: int
    fit: Fit


def _prepare(
    source: str, parts: Mapping[str, Mapping[str, Tensor]], sizes: Mapping[BackboneKind, tuple[str, BackboneConfig]]
) -> tuple[list[PreparedBackbone], _PreparedHead | None]:
    """Check every part before anything is written; what is wrong in any of them is one error."""
    backbones, head, problems = [], None, []
    for kind in KINDS:
        if kind in parts:
            preset, config = sizes[kind]
            try:
                backbones.append(prepare_backbone(kind, parts[kind], preset=preset, config=config, source=source))
            except InputError as error:
                problems.append(str(error))
    if "head" in parts:
        try:
            head = _prepare_head(source, parts["head"], {kind: config for kind, (_, config) in sizes.items()})
        except InputError as error:
            problems.append(str(error))
    if problems:
        raise InputError("\n".join(problems))
    return backbones, head


def _default(kind: BackboneKind) -> tuple[str, BackboneConfig]:
    preset = ARCHITECTURES[kind].default_preset
    return preset, preset_config(kind, preset)


def _parts(
    checkpoint: ForeignCheckpoint, kind: CheckpointKind
) -> tuple[dict[str, Mapping[str, Tensor]], dict[str, str]]:
    """Return the tensors of each part without its prefix, and those of no part as name -> reason."""
    if kind != "full":
        return {kind: checkpoint.tensors}, {}
    parts: dict[str, Mapping[str, Tensor]] = {
        part: {
            name.removeprefix(prefix): tensor for name, tensor in checkpoint.tensors.items() if name.startswith(prefix)
        }
        for part, prefix in PREFIXES.items()
    }
    strangers = [name for name in checkpoint.tensors if not name.startswith(tuple(PREFIXES.values()))]
    return parts, dict.fromkeys(strangers, "neither of a backbone nor of the head")


def _prepare_head(
    source: str, tensors: Mapping[str, Tensor], configs: Mapping[BackboneKind, BackboneConfig]
) -> _PreparedHead:
    section, num_classes = published_sizes(tensors, source)
    shapes = _shapes(configs)
    with torch.device("meta"):
        head = build_head(section, shapes, num_classes)
    fit = fit_tensors(tensors, head.state_dict(), source=source, what="the head of these backbones")
    return _PreparedHead(section=section, shapes=shapes, num_classes=num_classes, fit=fit)


def _write_head(path: Path, head: _PreparedHead, info: HeadInfo, progress: Progress | None) -> ImportedFile:
    state = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in head.fit.loaded.items()}
    digest = save_head(path, state, info, None if progress is None else partial(progress, f"writing {path.name}"))
    return ImportedFile(path=path, digest=digest, loaded=tuple(state), zeroed=head.fit.zeroed, ignored=head.fit.ignored)


def _shapes(configs: Mapping[BackboneKind, BackboneConfig]) -> FeatureShapes:
    slowfast, vit = configs["slowfast"], configs["vit"]
    assert isinstance(slowfast, SlowFastConfig)
    assert isinstance(vit, ViTConfig)
    maps = slowfast.map_shapes | vit.map_shapes
    return FeatureShapes(
        slow_CHW=maps["slow"], fast_CHW=maps["fast"], vit_CHW=maps["vit"], vit_frames=vit.token_grid[0]
    )
