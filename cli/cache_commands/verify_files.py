"""What `stal-cli cache verify` checks beside feature sets: each function prints what is sound and returns the rest."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from stal_data.errors import InputError

if TYPE_CHECKING:
    from cache.h5 import Kind
    from cache.store import Store


def verify_splits(store: "Store", dataset: str | None, split: str | None, *, repair: bool) -> list[str]:
    from cache.split_store import KIND, list_splits, load_split, split_file

    return [
        problem
        for name, part in list_splits(store, dataset, split)
        for problem in _verify_hdf5(
            store,
            split_file(store, name, part),
            KIND,
            f"{name}/{part}: the split is",
            partial(load_split, store, name, part),
            repair=repair,
        )
    ]


def verify_proposals(store: "Store", dataset: str | None, split: str | None, *, repair: bool) -> list[str]:
    from cache.proposal_store import KIND, list_proposals, read_proposals

    return [
        problem
        for found in list_proposals(store, dataset, split)
        for problem in _verify_hdf5(
            store,
            found.path,
            KIND,
            f"{found.dataset}/{found.split}/{found.name}: proposals are",
            partial(read_proposals, found.path),
            repair=repair,
        )
    ]


def verify_runs(store: "Store") -> list[str]:
    from recognizer_svc.bucket_runs import fetch_run
    from recognizer_svc.run_dir import RunDir
    from recognizer_svc.runs import list_runs
    from recognizer_svc.verify_run import verify_run

    problems = []
    for run in list_runs(store):
        fetch_run(store, run.run_id)
        found = verify_run(RunDir(store.runs_dir / run.run_id))
        problems += [f"runs/{run.run_id}: {problem}" for problem in found.problems]
        if not found.problems:
            note = f"; without a checksum: {', '.join(found.unchecked)}" if found.unchecked else ""
            click.echo(f"runs/{run.run_id}: sound{note}")
    return problems


def verify_weights(store: "Store") -> list[str]:
    from cache.tensor_header import read_header
    from stal_data.sealed import check_seal

    problems = []
    for path in store.find_weights():
        name = path.relative_to(store.root)
        try:
            with path.open("rb") as file:
                checked = check_seal(file, str(path), "Copy it again, or make it again.")
                read_header(file, str(path))
            click.echo(f"{name}: {'sound' if checked else 'carries no checksum'}")
        except (InputError, OSError) as error:
            problems.append(str(error))
    return problems


def _verify_hdf5(
    store: "Store", path: Path, kind: "Kind", what: str, read: Callable[[], object], *, repair: bool
) -> list[str]:
    from cache import h5

    try:
        store.fetch(path)
        if repair and h5.is_old(path):
            h5.add_checksum(path, kind)
            store.publish(path)
            click.echo(f"{path}: got a checksum")
        read()
        click.echo(f"{what} sound")
    except InputError as error:
        return [str(error)]
    return []
