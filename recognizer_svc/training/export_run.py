"""A run's head in a folder of its own: weights, label map, recipe and model card, for use without the store."""

import shutil
from pathlib import Path

from cache.files import sync_tree
from recognizer_svc.runs.run_dir import RunDir
from recognizer_svc.scoring.model_list import choose_checkpoint
from recognizer_svc.training.checkpoint import Checkpoint, load_checkpoint
from recognizer_svc.training.head_file import HeadInfo, save_head
from recognizer_svc.training.model_card import model_card
from recognizer_svc.training.provenance import code_version
from stal_data.errors import ConflictError, NotFoundError
from stal_data.files import write_atomically
from stal_data.sealed import UNSEALED, sealed, sealed_text
from stal_data.work_folder import work_folder


def export_run(run: RunDir, output: Path, checkpoint: str = "") -> list[str]:
    """Write the folder, which must be new or empty, as a whole or not at all; return the names of its files.

    checkpoint: best, latest, or "" for the best where the run keeps it. Each file carries a checksum.
    """
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise ConflictError(f"--output is '{output}', which is there already; name a new or empty folder.")
    name = choose_checkpoint(run, checkpoint)
    found = load_checkpoint(run.checkpoint(name))
    with work_folder(output) as folder:
        digest = save_head(folder / "head.safetensors", found.head_state, _info(run, name, found))
        write_atomically(folder / "recipe.yaml", sealed_text(found.recipe.to_yaml()))
        write_atomically(folder / "label_map.pbtxt", sealed_text(found.label_map.to_pbtxt()))
        if (backbone := _trained_backbone(run, name, found)) is not None:
            shutil.copyfile(backbone, folder / f"{found.recipe.training.backbone}.safetensors")
        card = f"<!-- {UNSEALED} -->\n{model_card(run.run_id, name, found, digest)}"
        write_atomically(folder / "README.md", sealed(card.encode()))
        sync_tree(folder)
        folder.rename(output)
    return sorted(path.name for path in output.iterdir())


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
            "trained_on": f"{data.dataset}/{data.train_split}",
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
