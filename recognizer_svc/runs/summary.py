"""What a run was and how it did: only its small text files are read."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field
from pydantic.dataclasses import dataclass as checked_dataclass

from cache.tensor_header import read_header
from recognizer_svc.runs.events import read_events
from recognizer_svc.runs.run_dir import METADATA_KEY, SUFFIX, RunDir
from stal_data.errors import InputError, StalError
from stal_data.sealed import read_json
from stal_data.yaml_text import read_yaml

LATEST_S = 253_402_300_799.0  # the end of the year 9999; calendars go no further


@checked_dataclass(frozen=True, kw_only=True)
class RunSummary:
    """One run. Anything that has not happened yet is None. Types are checked, since files may say anything.

    status: queued, running, succeeded, failed, cancelled or imported; `unknown` where nobody wrote one; `broken` where
    its files do not read, and `problems` says why.
    settings: the recipe's values and what it was made from, by dotted name.
    epochs_done of epochs. loss: mean over the last epoch's actors. validation_map, best_map: in [0,1].
    train_s: seconds of training and validation together, over all starts.
    problems: what of its files is damaged.
    """

    run_id: str
    created: Annotated[float, Field(ge=0, le=LATEST_S)] | None = None
    status: str
    message: str = ""
    settings: Mapping[str, str] = field(default_factory=dict)
    epochs_done: int = 0
    epochs: int | None = None
    loss: float | None = None
    validation_map: float | None = None
    best_map: float | None = None
    train_s: float = 0.0
    tags: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """differences: settings that are not the same in all runs, each with one value per run, `-` where it has none."""

    runs: tuple[RunSummary, ...]
    differences: tuple[tuple[str, tuple[str, ...]], ...]


def compare(runs: Sequence[RunSummary]) -> Comparison:
    """Set runs side by side."""
    names = sorted({name for run in runs for name in run.settings})
    readable = [run for run in runs if run.status != "broken"]
    different = [name for name in names if len({run.settings.get(name, "-") for run in readable}) > 1]
    rows = ((name, tuple(run.settings.get(name, "-") for run in runs)) for name in different)
    return Comparison(runs=tuple(runs), differences=tuple(rows))


def summarise(run: RunDir) -> RunSummary:
    """Read one run; files that are not there yet leave gaps, and damaged ones make it a broken run."""
    problems: list[str] = []
    try:
        return _summarise(run, problems)
    except (StalError, OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        problems.append(" ".join(f"{error if isinstance(error, StalError | OSError) else repr(error)}".split())[:500])
        return RunSummary(run_id=run.run_id, status="broken", problems=tuple(problems))


def _summarise(run_dir: RunDir, problems: list[str]) -> RunSummary:
    """problems: gets those of the events, whatever else is damaged."""
    last: dict[str, dict[str, Any]] = {}
    ended, created, train_s, seq = "unknown", None, 0.0, 0
    for event in read_events(run_dir.events, report=problems.append):
        seq = event.seq
        last[event.type] = event.values
        created = event.time_s if created is None else created
        if event.type in ("epoch", "validation"):
            train_s += event.values["duration_s"]
        # Of a run that was started by hand, without a service that keeps its status.
        ended = {"done": "succeeded", "error": "failed"}.get(event.type, ended)
    problems += _lost_events(run_dir, seq)
    recipe = read_yaml(run_dir.recipe)
    if not isinstance(recipe, dict):
        raise InputError(f"'{run_dir.recipe}' is no recipe: it has no sections.")
    provenance, state = read_json(run_dir.provenance, ""), read_json(run_dir.state, "")
    validation = last.get("validation", {})
    return RunSummary(
        run_id=run_dir.run_id,
        created=created,
        status=state.get("status") or ("broken" if ended == "unknown" and problems else ended),
        message=state.get("message") or last.get("error", {}).get("message", ""),
        settings=flatten(recipe) | _origins(provenance),
        # An imported run has a checkpoint and no epoch of its own.
        epochs_done=last.get("epoch", last.get("checkpoint", {})).get("epoch", 0),
        epochs=recipe.get("training", {}).get("epochs"),
        loss=last.get("epoch", {}).get("loss"),
        validation_map=validation.get("map"),
        best_map=validation.get("best_map"),
        train_s=train_s,
        tags=read_tags(run_dir),
        problems=tuple(problems),
    )


def read_tags(run: RunDir) -> tuple[str, ...]:
    """The tags of a run, sorted, as its file says them."""
    return tuple(read_json(run.tags, "Delete it, and tag the run again.").get("tags", ()))


def _lost_events(run_dir: RunDir, last: int) -> list[str]:
    """What the checkpoints say of events that are not there. last: number of the last one that is."""
    saved = [path for path in run_dir.checkpoint_files() if path.suffix == SUFFIX and path.exists()]
    behind = max(map(_events_before, saved), default=0)
    if last >= behind:
        return []
    return [f"'{run_dir.events}' ends at event {last}, but a checkpoint was saved after event {behind}."]


def _events_before(checkpoint: Path) -> int:
    with checkpoint.open("rb") as file:
        metadata = read_header(file, str(checkpoint))["__metadata__"]
    return int(json.loads(metadata[METADATA_KEY]).get("events", 0))


def _origins(provenance: Mapping[str, Any]) -> dict[str, str]:
    """What a run was made from, apart from its recipe; of several starts the last counts."""
    found = {f"feature_sets.{use}": item["id"] for use, item in provenance.get("feature_sets", {}).items()}
    found |= {f"splits.{use}": item["digest"][:12] for use, item in provenance.get("splits", {}).items()}
    for start in provenance.get("starts", [])[-1:]:
        code = start["code"]
        commit = f"{(code['commit'] or '')[:12]}{' (modified)' if code['modified'] else ''}"
        found |= {"code": commit or str(code["version"]), "torch": start["torch"], "device": start["device"]}
        found |= {"world_size": str(start["world_size"])}
    return found


def flatten(value: object, prefix: str = "") -> dict[str, str]:
    if not isinstance(value, Mapping):
        return {prefix: json.dumps(value)}
    flat: dict[str, str] = {}
    for key, item in value.items():
        flat |= flatten(item, f"{prefix}.{key}" if prefix else str(key))
    return flat
