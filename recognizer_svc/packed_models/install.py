"""A packed model as a run of a store, which can predict and be served."""

from cache.backbones.weights import weights_digest
from cache.store import Store
from recognizer_svc.packed_models.description import FILE, PackedModel
from recognizer_svc.runs.store import RunStore
from recognizer_svc.training.checkpoint import Checkpoint, Progress
from recognizer_svc.training.head_file import HeadInfo, load_head_file
from recognizer_svc.training.import_run import write_imported_run
from recognizer_svc.training.recipe import load_recipe
from stal_data.errors import InputError


def install(model: PackedModel, store: Store) -> str:
    """Make the model a run of the store, unless it is one already, and return the run's id."""
    runs = RunStore.of(store)
    run = runs.run(model.run_id)
    runs.fetch(model.run_id)
    if run.present_checkpoints():
        return model.run_id
    checkpoint, info = packed_checkpoint(model)
    try:
        write_imported_run(run, checkpoint, {"head_file": "head.safetensors", "digest": model.head, **info.provenance})
    except OSError:  # somebody else has installed it meanwhile, or there is no space
        if not run.present_checkpoints():
            raise
    runs.publish(run)
    return model.run_id


def packed_checkpoint(model: PackedModel) -> tuple[Checkpoint, HeadInfo]:
    """Return the model's head as a checkpoint, and what its file says of it."""
    path = model.folder / "head.safetensors"
    info, state = load_head_file(path)
    if f"sha256:{weights_digest(state)}" != model.head:
        raise InputError(f"'{path}' is not the head that {FILE} names: copy the whole folder again, or pack again.")
    checkpoint = Checkpoint(
        recipe=load_recipe(model.folder / "recipe.yaml"),
        label_map=model.label_map(),
        feature_spec=model.feature_spec,
        shapes=info.shapes,
        head_state=state,
        optimizer_state={},  # a packed model scores; training goes on from the run that it was packed from
        progress=Progress(epochs_done=info.epoch or 0),
    )
    return checkpoint, info
