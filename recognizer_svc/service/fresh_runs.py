"""The copies of runs that the scoring thread uses, where the store is in a bucket."""

import time

from cache.store import Store
from recognizer_svc.bucket_runs import fetch_run
from recognizer_svc.service.brief_bucket import BriefBucket
from stal_data.names import check_name

_EVERY_S = 5.0
_REMEMBERED = 1000


class FreshRuns:
    """Looks for newer copies now and then, and does without where the bucket does not answer."""

    def __init__(self, store: Store, bucket: BriefBucket) -> None:
        self._store, self._bucket = store, bucket
        self._looked_s: dict[str, float] = {}

    def fetch(self, run_id: str, *, now: bool) -> None:
        """Bring the newer copy that the bucket may have. now: also when it was looked for a moment ago.

        When the bucket does not answer, the copy that is here is kept; an error only where there is none.
        """
        check_name("run", run_id)
        time_s = time.monotonic()
        if not now and time_s - self._looked_s.get(run_id, float("-inf")) < _EVERY_S:
            return
        failed = self._bucket.ask(f"whether run '{run_id}' has trained on", lambda store: fetch_run(store, run_id))
        if failed is not None and not (self._store.runs_dir / run_id).is_dir():
            raise failed
        if len(self._looked_s) >= _REMEMBERED:
            self._looked_s.clear()
        self._looked_s[run_id] = time.monotonic()
