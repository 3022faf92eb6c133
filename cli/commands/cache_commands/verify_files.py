"""What `stal-cli cache verify` checks beside feature sets: each function says what is sound and returns the rest."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from cache.store import Store
from cache.tensor_header import read_header
from stal_data.errors import InputError
from stal_data.sealed import check_seal

Say = Callable[[str], object]


def verify_tables(store: Store, dataset: str | None, split: str | None, say: Say, *, repair: bool) -> list[str]:
    """Splits and proposals."""
    from cache import h5
    from cache.proposal_store import KIND as PROPOSALS
    from cache.proposal_store import list_proposals, read_proposals
    from cache.split_store import KIND as SPLIT
    from cache.split_store import list_splits, load_split, split_file

    tables: list[tuple[str, Path, h5.Kind, Callable[[], object]]] = [
        (f"{name}/{part}: the split is", split_file(store, name, part), SPLIT, partial(load_split, store, name, part))
        for name, part in list_splits(store, dataset, split)
    ]
    tables += [
        (
            f"{item.dataset}/{item.split}/{item.name}: proposals are",
            item.path,
            PROPOSALS,
            partial(read_proposals, item.path),
        )
        for item in list_proposals(store, dataset, split)
    ]
    problems = []
    for what, path, kind, read in tables:
        try:
            store.backend.fetch(path)
            if repair and h5.is_old(path):
                h5.add_checksum(path, kind)
                store.backend.publish(path)
                say(f"{path}: got a checksum")
            read()
            say(f"{what} sound")
        except InputError as error:
            problems.append(str(error))
    return problems


def verify_runs(store: Store, say: Say) -> list[str]:
    from recognizer_svc.runs.store import RunStore
    from recognizer_svc.runs.verify import verify_run

    problems, runs = [], RunStore.of(store)
    for run in runs.all():
        runs.fetch(run.run_id)
        found = verify_run(run)
        problems += [f"runs/{run.run_id}: {problem}" for problem in found.problems]
        if not found.problems:
            note = f"; without a checksum: {', '.join(found.unchecked)}" if found.unchecked else ""
            say(f"runs/{run.run_id}: sound{note}")
    return problems


def verify_weights(store: Store, say: Say) -> list[str]:
    problems = []
    for path in store.find_weights():
        name = path.relative_to(store.root)
        try:
            with path.open("rb") as file:
                checked = check_seal(file, str(path), "Copy it again, or make it again.")
                read_header(file, str(path))
            say(f"{name}: {'sound' if checked else 'carries no checksum'}")
        except (InputError, OSError) as error:
            problems.append(str(error))
    return problems
