"""The copies of runs that the scoring thread uses, where the store is in a bucket."""

import time

from cache.store import Store
from recognizer_svc.bucket_runs import fetch_run
from recognizer_svc.run_dir import RunDir
from recognizer_svc.service.time_limited_bucket import TimeLimitedBucket
from stal_data.errors import StalError
from stal_data.names import check_name

_EVERY_S = 5.0
_REMEMBERED = 1000


class FreshRuns:
    """Looks for newer copies now and then, and does without where the bucket does not answer."""

    def __init__(self, store: Store, bucket: TimeLimitedBucket) -> None:
        self._store, self._bucket = store, bucket
        self._looked: dict[str, tuple[float, StalError | None]] = {}
        """When a run was last looked for, and why that failed."""

    def fetch(self, run_id: str, *, now: bool) -> None:
        """Bring the newer copy that the bucket may have. now: also when it was looked for a moment ago.

        When that fails, the copy that is here is kept; an error only where there is none with a head.
        """
        check_name("run", run_id)
        looked_s, failed = self._looked.get(run_id, (float("-inf"), None))
        if now or time.monotonic() - looked_s >= _EVERY_S:
            failed = self._bucket.ask(f"whether run '{run_id}' has trained on", lambda store: fetch_run(store, run_id))
            if len(self._looked) >= _REMEMBERED:
                self._looked.clear()
            self._looked[run_id] = (time.monotonic(), failed)
        if failed is not None and not self._has_head(run_id):
            raise StalError(str(failed))

    def _has_head(self, run_id: str) -> bool:
        """Whether there is a checkpoint here. A folder alone may be what a copy has left that did not fit the disk."""
        run = RunDir(self._store.runs_dir / run_id)
        return run.checkpoint("best").exists() or run.checkpoint("latest").exists()
