"""Trained heads: which there are. No torch here, so that they can be listed at any time."""

import logging
from dataclasses import dataclass

from cache.store import Store
from recognizer_svc.runs.events import read_events
from recognizer_svc.runs.run_dir import CHECKPOINTS, RunDir
from recognizer_svc.runs.store import RunStore
from recognizer_svc.training.recipe import load_recipe
from stal_data.errors import InputError, NotFoundError, StalError
from stal_data.labels import LabelMap

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class ModelInfo:
    """A checkpoint of a run.

    digest: "sha256:<hex>" of the file; empty where it was not read.
    epoch: finished ones. validation_map: in [0,1]; None without a validation after that epoch.
    neighbours, neighbour_ms, bank_s: as in the recipe: which key frames before and after it sees.
    """

    run_id: str
    checkpoint: str
    digest: str
    head: str
    epoch: int
    validation_map: float | None
    label_map: LabelMap
    neighbours: int = 0
    neighbour_ms: int = 0
    bank_s: int = 0


def list_models(store: Store) -> list[ModelInfo]:
    """One entry for each run that has a checkpoint, newest first; what does not read is left out."""
    found: list[tuple[float, ModelInfo]] = []
    for run in RunStore.of(store).present():
        try:
            name = choose_checkpoint(run, "")
        except StalError:
            continue  # it has none yet
        try:
            found.append((run.checkpoint(name).stat().st_mtime, _describe(run, name)))
        except (StalError, OSError, ValueError, KeyError, TypeError) as error:
            _LOG.warning("run '%s' is left out of the list of heads: %r", run.run_id, error)
    return [info for _, info in sorted(found, key=lambda pair: pair[0], reverse=True)]


def _describe(run: RunDir, name: str) -> ModelInfo:
    epochs: dict[str, int] = {}
    maps: dict[int, float] = {}
    for event in read_events(run.events):
        if event.type == "checkpoint":
            epochs[str(event.values["name"])] = int(event.values["epoch"])
        elif event.type == "validation":
            maps[int(event.values["epoch"])] = float(event.values["map"])
    epoch = epochs.get(run.checkpoint(name).name, 0)
    recipe = load_recipe(run.recipe)
    return ModelInfo(
        run_id=run.run_id,
        checkpoint=name,
        digest="",
        head=recipe.head.kind,
        epoch=epoch,
        validation_map=maps.get(epoch),
        label_map=LabelMap.read(run.label_map),
        neighbours=recipe.data.neighbours,
        neighbour_ms=recipe.data.neighbour_ms,
        bank_s=recipe.data.bank_s,
    )


def choose_checkpoint(run: RunDir, checkpoint: str) -> str:
    """The checkpoint that is meant, if the run has it."""
    if checkpoint not in ("", *CHECKPOINTS):
        raise InputError(f"checkpoint is '{checkpoint}', but must be {' or '.join(CHECKPOINTS)}.")
    present = run.present_checkpoints()
    chosen = next((name for name in present if checkpoint in ("", name)), None)
    if chosen is None:
        raise NotFoundError(
            f"Run '{run.run_id}' has no {checkpoint or 'finished'} checkpoint"
            + (
                f", only {present[0]}: name that or none. Training keeps the best with --set validation.keep_best=true."
                if present
                else "; it has not finished its first epoch."
            )
        )
    return chosen
