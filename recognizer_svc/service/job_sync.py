"""What the machines of one job tell each other where the store is in a bucket; in a folder they just see it."""

import time

from cache.store import Store
from recognizer_svc.bucket_runs import fetch_run
from recognizer_svc.service.record import JobFiles, Launch
from recognizer_svc.service.time_limited_bucket import TimeLimitedBucket

_EVERY_S = 3.0  # a few requests each time
_GONE_S = 10.0


class Exchange:
    """Brings the request to cancel a job, and its events; does nothing for jobs of one machine or in a folder.

    A bucket that does not answer is logged and asked again later: the job itself goes on.
    """

    def __init__(self, store: Store, files: JobFiles, launch: Launch) -> None:
        self._files = files
        self._bucket = TimeLimitedBucket(store, gone_s=_GONE_S)
        self._needed = launch.nnodes > 1 and store.mirror is not None
        self._next_s = 0.0

    def is_due(self) -> bool:
        """True every few seconds, where there is something to fetch."""
        if not self._needed or time.monotonic() < self._next_s:
            return False
        self._next_s = time.monotonic() + _EVERY_S
        return True

    def fetch_cancel(self) -> None:
        if self._needed:
            what = f"whether job {self._files.run.run_id} is to be cancelled"
            self._bucket.ask(what, lambda store: store.fetch(self._files.cancel))

    def publish_cancel(self) -> None:
        """Tell the other machines. Raises StalError where the bucket does not answer."""
        if self._needed:
            what = f"whether the other machines of job {self._files.run.run_id} learn that it is to be cancelled"
            failed = self._bucket.ask(what, lambda store: store.publish(self._files.cancel))
            if failed is not None:
                raise failed

    def fetch_events(self) -> None:
        """Bring the events that the bucket has, where another machine writes them; it sends them at each checkpoint."""
        if self._needed:
            what = f"how far job {self._files.run.run_id} is"
            self._bucket.ask(what, lambda store: fetch_run(store, self._files.run.run_id, large=False))
