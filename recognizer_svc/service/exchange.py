"""What the machines of one job tell each other where the store is in a bucket; in a folder they just see it."""

import logging
import time
from dataclasses import replace
from functools import cached_property

from cache.store import Store
from recognizer_svc.bucket_runs import fetch_run
from recognizer_svc.service.record import JobFiles, Launch
from stal_data.errors import StalError

_LOG = logging.getLogger(__name__)
_EVERY_S = 3.0  # a few requests each time
_ATTEMPTS, _CONNECT_S, _SILENCE_S = 2, 2.0, 5.0  # who waits for an answer also wants to stop jobs and to end in time


class Exchange:
    """Brings the request to cancel a job, and its events; does nothing for jobs of one machine or in a folder.

    A bucket that does not answer is logged and asked again later: the job itself goes on.
    """

    def __init__(self, files: JobFiles, launch: Launch) -> None:
        self._files = files
        self._store = Store.open(files.run.store_root)
        self._needed = launch.nnodes > 1 and self._store.mirror is not None
        self._next_s = 0.0

    def is_due(self) -> bool:
        """True every few seconds, where there is something to fetch."""
        if not self._needed or time.monotonic() < self._next_s:
            return False
        self._next_s = time.monotonic() + _EVERY_S
        return True

    @cached_property
    def _impatient(self) -> Store:
        """The store, with requests that fail soon."""
        from cache.object_store.bucket import Bucket
        from cache.object_store.mirror import Mirror
        from cache.object_store.retries import Limits

        mirror = self._store.mirror
        assert mirror is not None  # else nothing is needed
        limits = Limits(attempts=_ATTEMPTS, connect_s=_CONNECT_S, silence_s=_SILENCE_S)
        return replace(
            self._store, mirror=Mirror(mirror.root, Bucket(mirror.bucket.url, limits=limits), mirror.folder_id, None)
        )

    def fetch_cancel(self) -> None:
        if self._needed:
            try:
                self._impatient.fetch(self._files.cancel)
            except StalError as error:
                _LOG.warning("whether job %s is to be cancelled is not known: %s", self._files.run.run_id, error)

    def publish_cancel(self) -> None:
        if self._needed:
            self._store.publish(self._files.cancel)

    def fetch_events(self) -> None:
        """Bring the events that the bucket has, where another machine writes them; it sends them at each checkpoint."""
        if self._needed:
            try:
                fetch_run(self._impatient, self._files.run.run_id, large=False)
            except StalError as error:
                _LOG.warning("the latest events of job %s are not known: %s", self._files.run.run_id, error)
