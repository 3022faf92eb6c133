"""Runs where the store is in a bucket: a run is written in the mirror's folder and sent when it has a checkpoint.

Events only grow, so of two copies of a run the one with more of them is the newer. `state.json` and the records of jobs
stay with the machine that runs the job.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from cache.store import Store
from recognizer_svc.run_dir import CHECKPOINTS, OLD_SUFFIX, SUFFIX, RunDir
from stal_data.errors import ConflictError
from stal_data.names import check_name

if TYPE_CHECKING:
    from cache.object_store.mirror import Mirror


def publish_run(store: Store, run: RunDir) -> None:
    """Send what is new of a run; the events last, so that who has them all can have the rest.

    But all except the last go first: a checkpoint must never be there without the events before it.
    """
    if store.mirror is None:
        return
    events, key = run.events.read_bytes() if run.events.exists() else b"", store.mirror.key_of(run.events)
    all_but_last = events[: events.rfind(b"\n", 0, -1) + 1]
    there = store.mirror.bucket.head(key)
    if len(all_but_last) > (there.num_bytes if there else 0):
        store.mirror.bucket.put(key, all_but_last)
    for path in (*_large_files(run), *_small_files(run)):
        if path.exists():
            store.mirror.publish(path)


def fetch_run(store: Store, run_id: str, *, large: bool = True) -> None:
    """Bring a run here if the bucket has a newer one. large: also its weights; else old ones are removed."""
    if store.mirror is None:
        return
    run = RunDir(store.runs_dir / check_name("run", run_id))
    events = store.mirror.key_of(run.events)
    there = store.mirror.bucket.head(events)
    here = run.events.stat().st_size if run.events.exists() else 0
    if there is None or there.num_bytes < here:
        return
    newer = there.num_bytes > here
    while _fetch_files(store.mirror, run, newer=newer, large=large):
        before, there, newer = there, store.mirror.bucket.head(events), True
        if there == before:
            return  # else it was sent meanwhile, and what is here may be of two moments


def _fetch_files(mirror: "Mirror", run: RunDir, *, newer: bool, large: bool) -> bool:
    """Return whether weights came. newer: than what is here."""
    came = False
    for path in _large_files(run):
        if path.suffix == OLD_SUFFIX and path.with_suffix(SUFFIX).exists():
            continue  # an old copy, left in the bucket
        # As many events: the same run, which this machine may be training now, so that its files may be newer.
        if large and (newer or not path.exists()):
            mirror.fetch(path)
            came |= path.exists()
        elif newer:
            path.unlink(missing_ok=True)
    for path in _small_files(run):
        if newer or not path.exists():
            mirror.fetch(path)
    return came


def fetch_summaries(store: Store) -> None:
    """Bring the small files of all runs that the bucket has."""
    if store.mirror is not None:
        for name in store.mirror.names("runs/"):
            fetch_run(store, name, large=False)


@contextmanager
def sole_training(store: Store, run: RunDir) -> Iterator[None]:
    """Keep other machines from training the run; an error where one does."""
    if store.mirror is None:
        yield
        return
    from cache.object_store.claims import Lease, read_owner

    key = store.mirror.key_of(run.root / ".training.json")
    lease = Lease.take(store.mirror, key)
    if lease is None:
        raise ConflictError(
            f"Run '{run.run_id}' is being trained by {read_owner(store.mirror, key)}; stop it there, or wait until its "
            "claim expires."
        )
    try:
        yield
    finally:
        lease.release()


def _large_files(run: RunDir) -> tuple[Path, ...]:
    checkpoints = (run.checkpoint(name).with_suffix(suffix) for suffix in (SUFFIX, OLD_SUFFIX) for name in CHECKPOINTS)
    return (*checkpoints, run.slowfast, run.slowfast_latest)


def _small_files(run: RunDir) -> tuple[Path, ...]:
    return (run.recipe, run.label_map, run.provenance, run.events)
