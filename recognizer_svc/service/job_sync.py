"""What the machines of one job tell each other where the store is in a bucket; in a folder they just see it."""

from collections.abc import Callable

from cache.store import Store
from recognizer_svc.runs.record import Launch
from recognizer_svc.runs.run_dir import JobFiles
from recognizer_svc.runs.store import RunStore
from recognizer_svc.runs.time_limited_bucket import TimeLimitedBucket
from stal_data.errors import StalError

EVERY_S = 3.0
"""How often to look; a few requests each time."""
_GONE_S = 10.0


class Exchange:
    """Brings the request to cancel a job, and its events; does nothing for jobs of one machine or in a folder.

    A bucket that does not answer is logged and asked again later: the job itself goes on.
    """

    def __init__(self, store: Store, files: JobFiles, launch: Launch) -> None:
        self._files = files
        self._bucket = TimeLimitedBucket(store, gone_s=_GONE_S)
        self._needed = launch.nnodes > 1 and store.in_bucket

    def fetch_cancel(self, *, every_s: float = 0.0) -> None:
        """every_s: unless that was done so short a time ago."""
        self._ask("whether it is to be cancelled", lambda store: store.backend.fetch(self._files.cancel), every_s)

    def publish_cancel(self) -> None:
        """Tell the other machines. Raises StalError where the bucket does not answer."""
        told = "whether its other machines learn that it is to be cancelled"
        failed = self._ask(told, lambda store: store.backend.publish(self._files.cancel))
        if failed is not None:
            raise failed

    def fetch_events(self, *, every_s: float = 0.0) -> None:
        """Bring the events that the bucket has, where another machine writes them; it sends them at each checkpoint."""
        run_id = self._files.run.run_id
        self._ask("how far it is", lambda store: RunStore.of(store).fetch(run_id, large=False), every_s)

    def _ask(self, what: str, request: Callable[[Store], object], every_s: float = 0.0) -> StalError | None:
        what = f"job {self._files.run.run_id}: {what}"
        return self._bucket.ask(what, request, every_s=every_s) if self._needed else None
