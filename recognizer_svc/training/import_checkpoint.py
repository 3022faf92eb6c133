"""A published checkpoint, of one backbone or whole, as our weight files."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from cache.backbones import BACKBONES, backbone_of
from cache.backbones.architectures import preset_config
from cache.backbones.fitting import Fit, fit_tensors
from cache.backbones.foreign import ForeignCheckpoint, read_foreign
from cache.backbones.importing import ImportedFile, PreparedBackbone, Progress, prepare_backbone
from cache.backbones.registry import BackboneConfig
from recognizer_svc.heads import build_head
from recognizer_svc.heads.acar.config import AcarConfig
from recognizer_svc.heads.acar.published import published_sizes
from recognizer_svc.heads.batch import FeatureShapes
from recognizer_svc.training.head_file import HeadInfo, save_head
from stal_data.digests import sha256_of
from stal_data.errors import InputError

FULL, HEAD = "full", "head"
HEAD_PREFIX = "head.module."
"""Of the head's tensors in a whole published checkpoint, after the DataParallel prefix of them all."""

_SHOWN = 3


@dataclass(frozen=True, kw_only=True)
class Import:
    """What an import wrote, and what it left out: entries of the file as name -> reason."""

    files: tuple[ImportedFile, ...]
    ignored: Mapping[str, str]
    epoch: int | None


def import_checkpoint(
    path: Path,
    kind: str,
    output: Path,
    *,
    sizes: Mapping[str, tuple[str, BackboneConfig]] | None = None,
    skip_objects: bool = False,
    progress: Progress | None = None,
) -> Import:
    """Read a published checkpoint and write BACKBONE.safetensors for each backbone, and head.safetensors, to a folder.

    path: as `read_foreign` takes it.
    kind: what the file holds: a backbone's name, or `full` = the backbones and the head.
    sizes: preset name and architecture of each backbone; where one is missing it has the published size.
    """
    checkpoint = read_foreign(path, skip_objects=skip_objects)
    prefixes = _prefixes()
    backbones_of_whole = tuple(prefix for part, prefix in prefixes.items() if part != HEAD)
    whole = [name for name in checkpoint.tensors if name.startswith(backbones_of_whole)]
    if kind != FULL and whole:
        raise InputError(f"'{path}' is a whole checkpoint (it holds {whole[0]}); import it with --kind full.")
    absent = [prefix for prefix in prefixes.values() if not any(name.startswith(prefix) for name in checkpoint.tensors)]
    if kind == FULL and absent:
        others = [name for name in checkpoint.tensors if not name.startswith(tuple(prefixes.values()))]
        raise InputError(
            f"'{path}' is no whole checkpoint: no tensor is under {', '.join(absent)}"
            + (f"; elsewhere are {', '.join(others[:_SHOWN])}. " if others else ". ")
            + f"Import a backbone alone with --kind {' or --kind '.join(part for part in prefixes if part != HEAD)}."
        )
    parts, strangers = _parts(checkpoint, kind, prefixes)
    needed = [part for part in parts if part != HEAD]
    chosen = {name: (sizes or {}).get(name) or _default(name) for name in needed}
    for name, (_, config) in chosen.items():
        check = backbone_of(name).architecture.check_settings
        if check is not None and checkpoint.settings is not None:
            check(checkpoint.settings, config)
    backbones, head = _prepare(f"'{path}'", parts, chosen)
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
    section: AcarConfig
    shapes: FeatureShapes
    num_classes: int
    fit: Fit


def _prepare(
    source: str, parts: Mapping[str, Mapping[str, Tensor]], sizes: Mapping[str, tuple[str, BackboneConfig]]
) -> tuple[list[PreparedBackbone], _PreparedHead | None]:
    """Check every part before anything is written; what is wrong in any of them is one error."""
    backbones, head, problems = [], None, []
    for kind, (preset, config) in sizes.items():
        try:
            backbones.append(prepare_backbone(kind, parts[kind], preset=preset, config=config, source=source))
        except InputError as error:
            problems.append(str(error))
    if HEAD in parts:
        try:
            head = _prepare_head(source, parts[HEAD], {kind: config for kind, (_, config) in sizes.items()})
        except InputError as error:
            problems.append(str(error))
    if problems:
        raise InputError("\n".join(problems))
    return backbones, head


def _prefixes() -> dict[str, str]:
    """Part of a whole published checkpoint -> prefix of its tensors, after the DataParallel prefix of them all."""
    architectures = {name: backbone.architecture for name, backbone in BACKBONES.items()}
    prefixes = {name: item.published_prefix for name, item in architectures.items() if item.published_prefix}
    return {**prefixes, HEAD: HEAD_PREFIX}


def _default(kind: str) -> tuple[str, BackboneConfig]:
    preset = backbone_of(kind).architecture.default_preset
    if preset is None:
        raise InputError(f"The {kind} backbone has no published size; name the preset.")
    return preset, preset_config(kind, preset)


def _parts(
    checkpoint: ForeignCheckpoint, kind: str, prefixes: Mapping[str, str]
) -> tuple[dict[str, Mapping[str, Tensor]], dict[str, str]]:
    """Return the tensors of each part without its prefix, and those of no part as name -> reason."""
    if kind != FULL:
        return {kind: checkpoint.tensors}, {}
    parts: dict[str, Mapping[str, Tensor]] = {
        part: {
            name.removeprefix(prefix): tensor for name, tensor in checkpoint.tensors.items() if name.startswith(prefix)
        }
        for part, prefix in prefixes.items()
    }
    strangers = [name for name in checkpoint.tensors if not name.startswith(tuple(prefixes.values()))]
    return parts, dict.fromkeys(strangers, "neither of a backbone nor of the head")


def _prepare_head(source: str, tensors: Mapping[str, Tensor], configs: Mapping[str, BackboneConfig]) -> _PreparedHead:
    section, num_classes = published_sizes(tensors, source)
    shapes = FeatureShapes.of_configs(configs)
    with torch.device("meta"):
        head = build_head(section, shapes, num_classes)
    fit = fit_tensors(tensors, head.state_dict(), source=source, what="the head of these backbones")
    return _PreparedHead(section=section, shapes=shapes, num_classes=num_classes, fit=fit)


def _write_head(path: Path, head: _PreparedHead, info: HeadInfo, progress: Progress | None) -> ImportedFile:
    state = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in head.fit.loaded.items()}
    digest = save_head(path, state, info, None if progress is None else partial(progress, f"writing {path.name}"))
    return ImportedFile(path=path, digest=digest, loaded=tuple(state), zeroed=head.fit.zeroed, ignored=head.fit.ignored)
