"""The trained backbone as weights files, from which precompute fills the cache."""

import json
from dataclasses import asdict
from pathlib import Path

from cache.backbones.architectures import build_without_weights, config_from_json
from cache.backbones.weights import assign_state, save_backbone
from cache.spec import BackboneSpec
from recognizer_svc.runs.run_dir import RunDir
from recognizer_svc.training.checkpoint import Checkpoint, load_checkpoint


def export_backbone(run_dir: RunDir, initial: BackboneSpec) -> list[Path]:
    """Write the backbone of the checkpoint that prediction takes unasked, and of the latest one where that is another.

    initial: what training started from, for the files' provenance.
    """
    files = [run_dir.checkpoint(name) for name in ("best", "latest")]
    # By weights: the best checkpoint may be the latest.
    found = {_weights(checkpoint): checkpoint for checkpoint in map(load_checkpoint, filter(Path.exists, files))}
    chosen, latest = run_dir.backbone_files(initial.kind)
    targets = [chosen, latest][: len(found)]
    for path, checkpoint in zip(targets, found.values(), strict=True):
        _write(path, checkpoint, run_dir.run_id, initial)
    if len(found) == 1:
        latest.unlink(missing_ok=True)  # of an earlier end of a run that was made longer
    return targets


def _write(path: Path, checkpoint: Checkpoint, run_id: str, initial: BackboneSpec) -> None:
    kind = initial.kind
    spec, state = checkpoint.feature_spec.backbone(kind), checkpoint.backbone_state
    assert state is not None
    config = config_from_json(kind, json.dumps(spec.config), f"The checkpoint of run '{run_id}'")
    model = build_without_weights(kind, config)
    assign_state(model, state, f"The checkpoint of run '{run_id}'")
    data = checkpoint.recipe.data
    cached = {item.kind: item.weights for item in checkpoint.feature_spec.backbones if item.kind != kind}
    save_backbone(
        path,
        model,
        kind=kind,
        preset=spec.preset,
        config=config,
        provenance={
            "trained": "jointly with a head",
            "run": run_id,
            "epochs": checkpoint.progress.epochs_done,
            "dataset": data.dataset,
            "split": data.train_split,
            "initial": asdict(initial),
            **cached,
        },
    )


def _weights(checkpoint: Checkpoint) -> str:
    return checkpoint.feature_spec.backbone(checkpoint.recipe.training.backbone).weights
