"""What the runs of a store were and how they did. Needs no torch: only the small text files of a run are read."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cache.store import Store
from recognizer_svc.bucket_runs import fetch_run, fetch_summaries
from recognizer_svc.run_dir import RunDir, read_events
from stal_data.errors import InputError, NotFoundError, did_you_mean
from stal_data.names import check_name
from stal_data.yaml_text import read_yaml


@dataclass(frozen=True, kw_only=True)
class RunSummary:
    """One run. Anything that has not happened yet is None.

    status: queued, running, succeeded, failed, cancelled or imported; `unknown` where nobody wrote one.
    settings: the recipe's values and what it was made from, by dotted name.
    epochs_done of epochs. loss: mean over the last epoch's actors. validation_map, best_map: in [0,1].
    train_s: seconds of training and validation together, over all starts.
    """

    run_id: str
    created: float | None
    status: str
    message: str
    settings: Mapping[str, str]
    epochs_done: int
    epochs: int | None
    loss: float | None
    validation_map: float | None
    best_map: float | None
    train_s: float


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """differences: settings that are not the same in all runs, each with one value per run, `-` where it has none."""

    runs: tuple[RunSummary, ...]
    differences: tuple[tuple[str, tuple[str, ...]], ...]


def list_runs(store: Store) -> list[RunSummary]:
    """Return the runs of the store, oldest first."""
    fetch_summaries(store)
    folders = [path.parent for path in store.runs_dir.glob("[!.]*/recipe.yaml")]
    return sorted((summarise(folder) for folder in folders), key=lambda run: (run.created or 0.0, run.run_id))


def compare_runs(store: Store, run_ids: Sequence[str]) -> Comparison:
    """Set two or more runs side by side, in the given order."""
    if len(run_ids) < 2:
        raise InputError(f"Comparing needs at least two runs, got {', '.join(run_ids) or 'none'}.")
    runs = tuple(summarise(find_run(store, run_id)) for run_id in run_ids)
    names = sorted({name for run in runs for name in run.settings})
    rows = ((name, tuple(run.settings.get(name, "-") for run in runs)) for name in names)
    return Comparison(runs=runs, differences=tuple(row for row in rows if len(set(row[1])) > 1))


def find_run(store: Store, run_id: str) -> Path:
    """Return a run's folder; of a run that is in a bucket, its small files are there."""
    fetch_run(store, run_id, large=False)
    folder = store.runs_dir / check_name("run", run_id)
    if not (folder / "recipe.yaml").is_file():
        known = [path.parent.name for path in store.runs_dir.glob("[!.]*/recipe.yaml")]
        raise NotFoundError(f"There is no run '{run_id}' in '{store.name}'. {did_you_mean(run_id, known)}")
    return folder


def summarise(folder: Path) -> RunSummary:
    """Read one run's folder; files that are not there yet leave gaps."""
    run_dir = RunDir(folder)
    recipe = read_yaml(run_dir.recipe)
    provenance, state = _json(run_dir.provenance), _json(run_dir.state)
    last: dict[str, dict[str, Any]] = {}
    first_time, train_s = None, 0.0
    for event in read_events(run_dir.events):
        last[event["type"]] = event
        first_time = event["time"] if first_time is None else first_time
        if event["type"] in ("epoch", "validation"):
            train_s += event["duration_s"]
    validation = last.get("validation", {})
    return RunSummary(
        run_id=run_dir.run_id,
        created=first_time,
        status=state.get("status") or _status(last),
        message=state.get("message") or last.get("error", {}).get("message", ""),
        settings=_flatten(recipe) | _origins(provenance),
        # An imported run has a checkpoint and no epoch of its own.
        epochs_done=last.get("epoch", last.get("checkpoint", {})).get("epoch", 0),
        epochs=recipe.get("training", {}).get("epochs"),
        loss=last.get("epoch", {}).get("loss"),
        validation_map=validation.get("map"),
        best_map=validation.get("best_map"),
        train_s=train_s,
    )


def _status(last: Mapping[str, Mapping[str, Any]]) -> str:
    """Status of a run that was started by hand, without a service that keeps one."""
    done, error = last.get("done", {}).get("seq", 0), last.get("error", {}).get("seq", 0)
    if max(done, error) == 0:
        return "unknown"
    return "succeeded" if done > error else "failed"


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


def _json(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise InputError(f"'{path}' is not JSON: {error}.") from None


def _flatten(value: object, prefix: str = "") -> dict[str, str]:
    if not isinstance(value, Mapping):
        return {prefix: json.dumps(value)}
    flat: dict[str, str] = {}
    for key, item in value.items():
        flat |= _flatten(item, f"{prefix}.{key}" if prefix else str(key))
    return flat
