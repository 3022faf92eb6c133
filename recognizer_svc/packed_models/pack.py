"""A run's head in a folder of its own, with all that scoring videos needs; see `description` for the files."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cache.backbones.load import RANDOM, LoadedBackbone
from cache.files import sync_tree
from cache.spec import FeatureSpec
from recognizer_svc.features import check_weights
from recognizer_svc.packed_models.description import (
    FILE,
    PackedDetector,
    PackedModel,
    backbone_file,
    check_new_folder,
    detector_files,
)
from recognizer_svc.packed_models.model_card import model_card
from recognizer_svc.runs.run_dir import RunDir
from recognizer_svc.scoring.model_list import choose_checkpoint
from recognizer_svc.training.checkpoint import Checkpoint, load_checkpoint
from recognizer_svc.training.head_file import HeadInfo, save_head
from recognizer_svc.training.provenance import code_version
from stal_data.digests import sha256_of
from stal_data.errors import ConflictError, InputError, NotFoundError
from stal_data.files import write_atomically
from stal_data.sealed import UNSEALED, sealed, sealed_json, sealed_text
from stal_data.work_folder import work_folder


@dataclass(frozen=True, kw_only=True)
class Belongings:
    """What goes with the head.

    backbones: file, and what was loaded from it. detector: its file, and how it is run. thresholds: by label id.
    """

    backbones: Sequence[tuple[Path, LoadedBackbone]] = ()
    detector: tuple[Path, PackedDetector] | None = None
    thresholds: Mapping[int, float] = field(default_factory=dict)


def pack_run(run: RunDir, output: Path, belongings: Belongings, checkpoint: str = "") -> list[str]:
    """Write the folder, which must be new or empty, as a whole or not at all; return the names of its files.

    checkpoint: best, latest, or "" for the best where the run keeps it. Each file but the detector carries a checksum.
    """
    check_new_folder(output)
    name = choose_checkpoint(run, checkpoint)
    found = load_checkpoint(run.checkpoint(name))
    spec = _features_of_the_head(found)
    files = _backbone_files(run, name, found, spec, belongings)
    with work_folder(output) as folder:
        digest = save_head(folder / "head.safetensors", found.head_state, _info(run, name, found))
        write_atomically(folder / "recipe.yaml", sealed_text(found.recipe.to_yaml()))
        write_atomically(folder / "label_map.pbtxt", sealed_text(found.label_map.to_pbtxt()))
        for kind, path in files.items():
            shutil.copyfile(path, backbone_file(folder, kind))
        if belongings.detector is not None:
            _copy_detector(*belongings.detector, folder)
        model = PackedModel(
            folder=folder,
            run=run.run_id,
            head=f"sha256:{digest}",
            feature_spec=spec,
            detector=belongings.detector and belongings.detector[1],
            thresholds=belongings.thresholds,
        )
        write_atomically(folder / FILE, sealed_json(model.to_dict()))
        card = f"<!-- {UNSEALED} -->\n{model_card(model, found, name)}"
        write_atomically(folder / "README.md", sealed(card.encode()))
        sync_tree(folder)
        folder.rename(output)
    return sorted(path.name for path in output.iterdir())


def _features_of_the_head(checkpoint: Checkpoint) -> FeatureSpec:
    streams = checkpoint.recipe.data.streams
    return checkpoint.feature_spec if streams is None else checkpoint.feature_spec.of_kinds(streams)


def _backbone_files(
    run: RunDir, name: str, checkpoint: Checkpoint, spec: FeatureSpec, belongings: Belongings
) -> dict[str, Path]:
    """The files to pack, by kind: those that were given, which must be the head's, and one that was trained with it."""
    files = {}
    for path, loaded in belongings.backbones:
        kind = loaded.spec.kind
        if kind not in spec.kinds:
            raise InputError(f"The head of run '{run.run_id}' does not see {kind}; it sees {', '.join(spec.kinds)}.")
        check_weights(run.run_id, spec.backbone(kind), loaded.spec, path)
        if not loaded.spec.weights.startswith(RANDOM):  # which are made again from the seed
            files[kind] = path
    if (trained := _trained_backbone(run, name, checkpoint)) is not None:
        files[checkpoint.recipe.training.backbone] = trained
    return files


def _copy_detector(path: Path, detector: PackedDetector, folder: Path) -> None:
    target = next((file for file in detector_files(folder) if file.suffix == path.suffix), None)
    if target is None:
        kinds = " or ".join(file.suffix for file in detector_files(folder))
        raise InputError(
            f"The detector's weights are '{path}', but must be a {kinds} file, as 'detector train' writes."
        )
    shutil.copyfile(path, target)
    if f"sha256:{sha256_of(target)}" != detector.digest:
        raise ConflictError(f"'{path}' has changed while it was packed; pack again.")


def _info(run: RunDir, name: str, checkpoint: Checkpoint) -> HeadInfo:
    data, progress = checkpoint.recipe.data, checkpoint.progress
    return HeadInfo(
        section=checkpoint.recipe.head,
        shapes=checkpoint.shapes,
        num_classes=checkpoint.label_map.num_classes,
        backbones={item.kind: item.weights for item in checkpoint.feature_spec.backbones},
        epoch=progress.epochs_done,
        provenance={
            "run": run.run_id,
            "checkpoint": name,
            "trained_on": data.trained_on,
            "validation_map": progress.validation_map,
            "code": code_version(),
        },
    )


def _trained_backbone(run: RunDir, name: str, checkpoint: Checkpoint) -> Path | None:
    """The file of the backbone that was trained with this checkpoint's head."""
    kind = checkpoint.recipe.training.backbone
    if kind == "none":
        return None
    first, latest = run.backbone_files(kind)
    path = latest if name == "latest" and latest.exists() else first
    if not path.exists():
        raise NotFoundError(f"Run '{run.run_id}' has no {path.name} yet; it is written when all epochs are trained.")
    return path
