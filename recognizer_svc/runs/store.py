"""The runs of a store, in a folder or in a bucket."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from cache.store import Store
from recognizer_svc.runs.record import JobKind, JobRecord
from recognizer_svc.runs.run_dir import OLD_SUFFIX, SUFFIX, RunDir
from recognizer_svc.runs.summary import Comparison, RunSummary, compare, summarise
from stal_data.errors import ConflictError, InputError, NotFoundError, did_you_mean
from stal_data.names import check_name

if TYPE_CHECKING:
    from cache.object_store.mirror import Mirror

_OF_A_RUN = ("recipe.yaml", "events.jsonl", "checkpoints")


class RunStore:
    """The runs of a store in a folder, which all machines see alike."""

    def __init__(self, store: Store) -> None:
        self.store = store

    @staticmethod
    def of(store: Store) -> "RunStore":
        return RunStore(store) if store.mirror is None else _BucketRunStore(store, store.mirror)

    def run(self, run_id: str) -> RunDir:
        """Where a run lies or would lie, the name checked."""
        return RunDir(self.store.runs_dir / check_name("run id", run_id))

    def present(self) -> list[RunDir]:
        """The runs that are on this machine, by name."""
        found = {path.parent for path in self.store.runs_dir.glob("[!.]*/*") if path.name in _OF_A_RUN}
        return [RunDir(folder) for folder in sorted(found)]

    def find_present(self, run_id: str) -> RunDir:
        """A run that is on this machine."""
        run = self.run(run_id)
        if not any((run.root / name).exists() for name in _OF_A_RUN):
            known = [other.run_id for other in self.present()]
            raise NotFoundError(f"There is no run '{run_id}' in '{self.store.name}'. {did_you_mean(run_id, known)}")
        return run

    def precompute_job(self, job_id: str) -> RunDir:
        """Where a precompute job lies or would lie, the name checked."""
        return RunDir(self.store.jobs_dir / check_name("job id", job_id))

    def folder_of(self, record: JobRecord) -> RunDir:
        """Where a job lies."""
        return self.precompute_job(record.run_id) if record.kind is JobKind.PRECOMPUTE else self.run(record.run_id)

    def present_jobs(self) -> list[RunDir]:
        """The folders on this machine that may hold a job: those of runs, then those of precompute jobs."""
        return self.present() + [RunDir(path.parent) for path in sorted(self.store.jobs_dir.glob("[!.]*/request.json"))]

    def find_present_job(self, job_id: str) -> RunDir:
        """The folder of a job that is on this machine."""
        found = self.precompute_job(job_id)
        return found if found.request.exists() else self.find_present(job_id)

    def all(self) -> list[RunDir]:
        """All runs of the store; their small files are on this machine then."""
        return self.present()

    def find(self, run_id: str) -> RunDir:
        """A run of the store; its small files are on this machine then."""
        self.fetch(run_id, large=False)
        return self.find_present(run_id)

    def summaries(self) -> list[RunSummary]:
        """What all runs were and how they did, oldest first."""
        return sorted(map(summarise, self.all()), key=lambda run: (run.created or 0.0, run.run_id))

    def compare(self, run_ids: Sequence[str]) -> Comparison:
        """Set two or more runs side by side, in the given order."""
        if len(run_ids) < 2:
            raise InputError(f"Comparing needs at least two runs, got {', '.join(run_ids) or 'none'}.")
        return compare([summarise(self.find(run_id)) for run_id in run_ids])

    def fetch(self, run_id: str, *, large: bool = True) -> None:
        """Bring a run here if the bucket has a newer copy. large: also its weights; else old ones are removed."""

    def publish(self, run: RunDir) -> None:
        """Send what is new of a run to the bucket."""

    def unpublish(self, run: RunDir) -> None:
        """Delete what the bucket has of a run."""

    def sole_training(self, run: RunDir) -> AbstractContextManager[None]:  # noqa: ARG002
        """Keep other machines from training the run; an error where one does. In a folder its lock does so."""
        return nullcontext()


class _BucketRunStore(RunStore):
    """The runs of a store in a bucket: a run is written in the mirror's folder and sent when it has a checkpoint.

    Events only grow, so of two copies of a run the one with more of them is the newer. `state.json` and the records of
    jobs stay with the machine that runs the job.
    """

    def __init__(self, store: Store, mirror: "Mirror") -> None:
        super().__init__(store)
        self._mirror = mirror

    def all(self) -> list[RunDir]:
        for name in self._mirror.names("runs/"):
            self.fetch(name, large=False)
        return self.present()

    def publish(self, run: RunDir) -> None:
        """The events go last, so that who has them all can have the rest.

        But all except the last go first: a checkpoint must never be there without the events before it.
        """
        bucket, key = self._mirror.bucket, self._mirror.key_of(run.events)
        events = run.events.read_bytes() if run.events.exists() else b""
        all_but_last = events[: events.rfind(b"\n", 0, -1) + 1]
        there = bucket.head(key)
        if len(all_but_last) > (there.num_bytes if there else 0):
            bucket.put(key, all_but_last)
        for path in (*_large_files(run), *_small_files(run)):
            if path.exists():
                self._mirror.publish(path)

    def unpublish(self, run: RunDir) -> None:
        """The events go first: without them no other machine takes the run for one that is there."""
        bucket, events = self._mirror.bucket, self._mirror.key_of(run.events)
        keys = [item.key for item in bucket.objects(f"{self._mirror.key_of(run.root)}/")]
        for key in sorted(keys, key=lambda key: key != events):
            bucket.delete(key)

    def fetch(self, run_id: str, *, large: bool = True) -> None:
        run = self.run(run_id)
        if not large:
            self._mirror.fetch(run.tags)  # they change without an event
        bucket, events = self._mirror.bucket, self._mirror.key_of(run.events)
        there = bucket.head(events)
        here = run.events.stat().st_size if run.events.exists() else 0
        if there is None or there.num_bytes < here:
            return
        newer = there.num_bytes > here
        while self._fetch_files(run, newer=newer, large=large):
            before, there, newer = there, bucket.head(events), True
            if there == before:
                return  # else it was sent meanwhile, and what is here may be of two moments

    def _fetch_files(self, run: RunDir, *, newer: bool, large: bool) -> bool:
        """Return whether weights came. newer: than what is here."""
        came = False
        for path in _large_files(run):
            if path.suffix == OLD_SUFFIX and path.with_suffix(SUFFIX).exists():
                continue  # an old copy, left in the bucket
            # As many events: the same run, which this machine may be training now, so that its files may be newer.
            if large and (newer or not path.exists()):
                self._mirror.fetch(path)
                came |= path.exists()
            elif newer:
                path.unlink(missing_ok=True)
        for path in _small_files(run):
            if newer or not path.exists():
                self._mirror.fetch(path)
        return came

    @contextmanager
    def sole_training(self, run: RunDir) -> Iterator[None]:
        from cache.object_store.claims import Lease, read_owner

        key = self._mirror.key_of(run.root / ".training.json")
        lease = Lease.take(self._mirror, key)
        if lease is None:
            raise ConflictError(
                f"Run '{run.run_id}' is being trained by {read_owner(self._mirror, key)}; stop it there, or wait until "
                "its claim expires."
            )
        try:
            yield
        finally:
            lease.release()


def _large_files(run: RunDir) -> list[Path]:
    return [*run.checkpoint_files(), *run.all_backbone_files()]


def _small_files(run: RunDir) -> list[Path]:
    return [run.recipe, run.label_map, run.provenance, run.events]
