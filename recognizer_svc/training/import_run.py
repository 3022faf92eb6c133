"""A head file as a run that can score: what `predict` needs, without any training of ours."""

import time
from pathlib import Path

from cache.backbones.weights import weights_digest
from cache.feature_store import list_feature_sets, open_feature_set
from cache.files import sync, sync_tree
from cache.spec import FeatureSpec
from cache.split_store import load_split
from cache.store import Store
from recognizer_svc.runs.events import EventWriter
from recognizer_svc.runs.record import IMPORTED
from recognizer_svc.runs.run_dir import RunDir
from recognizer_svc.runs.store import RunStore
from recognizer_svc.training.checkpoint import Checkpoint, Progress, save_checkpoint
from recognizer_svc.training.head_file import HeadInfo, load_head_file
from recognizer_svc.training.initial_head import check_head_fits, other_backbones
from recognizer_svc.training.inputs import cached_shapes
from recognizer_svc.training.provenance import code_version
from recognizer_svc.training.recipe import Recipe
from stal_data.errors import ConflictError, InputError
from stal_data.files import write_atomically
from stal_data.sealed import sealed_json, sealed_text
from stal_data.work_folder import work_folder


def import_run(
    store: Store, head_file: Path, recipe: Recipe, *, run_id: str, split: str, feature_set: str | None = None
) -> RunDir:
    """Make a run of a head file.

    recipe: its data set, head and loss count; the loss decides what turns logits into scores.
    split: a split of the data set with cached features; label map and feature spec come from there.
    feature_set: id of the identity set; None = that of the head's backbones, where the head file names them.
    """
    runs = RunStore.of(store)
    run_dir = runs.run(run_id)
    runs.fetch(run_id)
    if run_dir.root.exists():
        raise ConflictError(f"Run '{run_id}' exists in the store; choose another --run-id.")
    info, state = load_head_file(head_file)
    if info.epoch:
        recipe = recipe.model_copy(update={"training": recipe.training.model_copy(update={"epochs": info.epoch})})
    label_map = load_split(store, recipe.data.dataset, split).label_map
    if label_map is None:
        raise InputError(
            f"{recipe.data.dataset}/{split} has no label map, so nobody knows what the head's classes are."
        )
    feature_set = feature_set or _set_of_backbones(store, recipe.data.dataset, split, info)
    features = open_feature_set(store, recipe.data.dataset, split, set_id=feature_set)
    checkpoint = Checkpoint(
        recipe=recipe,
        label_map=label_map,
        feature_spec=features.spec,
        shapes=cached_shapes(recipe, features),
        head_state=state,
        optimizer_state={},  # there was no training here, so none can be resumed
        progress=Progress(epochs_done=info.epoch or 0),
    )
    _check(f"'{head_file}'", info, checkpoint)
    write_imported_run(
        run_dir, checkpoint, {"head_file": head_file.name, "digest": weights_digest(state), **info.provenance}
    )
    runs.publish(run_dir)
    return run_dir


def _set_of_backbones(store: Store, dataset: str, split: str, info: HeadInfo) -> str | None:
    """The split's identity set of the head's own backbones; where there is none, one that `_check` refuses by name."""
    if not info.backbones:
        return None
    found = {item.id: item.spec for item in list_feature_sets(store, dataset, split) if item.spec.view == "identity"}
    fitting = [set_id for set_id, spec in found.items() if _weights_of(spec) == info.backbones]
    if len(fitting) > 1:
        first = fitting[0]
        others = "; ".join(f"{other}, {', '.join(found[first].diff(found[other]))}" for other in fitting[1:])
        raise ConflictError(
            f"{dataset}/{split} has several feature sets of the head's backbones: {first}; {others} ({first} / it). "
            "Choose one with --feature-set ID."
        )
    return next(iter(fitting or found), None)


def _weights_of(spec: FeatureSpec) -> dict[str, str]:
    return {item.kind: item.weights for item in spec.backbones}


def _check(where: str, info: HeadInfo, checkpoint: Checkpoint) -> None:
    spec, classes = checkpoint.feature_spec, checkpoint.label_map.num_classes
    if spec.view != "identity":
        raise InputError(f"Feature set {spec.id} is of view '{spec.view}'; boxes belong to the identity view.")
    check_head_fits(where, info, checkpoint.recipe.head, checkpoint.shapes)
    checkpoint.recipe.loss.check(classes)
    if info.num_classes != classes:
        raise InputError(
            f"{where} has {info.num_classes} classes and the label map {classes}. Use the label map it was made for; "
            "for another one, train from it with training.init_head and training.new_classifier=true."
        )
    other = other_backbones(info, _weights_of(spec))
    if other:
        raise ConflictError(
            f"{where} was trained on features of other backbone weights (head / features): {', '.join(other)}. "
            "Precompute the split with the backbone files of the same import."
        )


def write_imported_run(run_dir: RunDir, checkpoint: Checkpoint, origin: dict[str, object]) -> None:
    """Make a run of a checkpoint. origin: where its head is from, with `head_file`.

    The folder is filled under a hidden name and then gets its own: a run is there as a whole or not at all. OSError
    where somebody else made the run meanwhile.
    """
    epoch = checkpoint.progress.epochs_done
    with work_folder(run_dir.root) as folder:
        hidden = RunDir(folder)
        write_atomically(hidden.recipe, sealed_text(checkpoint.recipe.to_yaml()))
        write_atomically(hidden.label_map, sealed_text(checkpoint.label_map.to_pbtxt()))
        provenance = {"run_id": run_dir.run_id, "imported": origin, "time": time.time(), "code": code_version()}
        write_atomically(hidden.provenance, sealed_json(provenance))
        write_atomically(hidden.state, sealed_json({"status": IMPORTED, "message": ""}))
        save_checkpoint(hidden.checkpoint("latest"), checkpoint)
        with EventWriter(hidden.events) as events:
            events.write("log", message=f"imported from {origin['head_file']}")
            events.write("checkpoint", epoch=epoch, step=0, name=hidden.checkpoint("latest").name)
        sync_tree(hidden.root)
        hidden.root.rename(run_dir.root)
        sync(run_dir.root.parent)
