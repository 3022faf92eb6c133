"""Asking a bucket briefly: who waits for the answer also has heads to score with, and jobs to stop in time."""

import logging
import time
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property

from cache.store import Store
from stal_data.errors import StalError

_LOG = logging.getLogger(__name__)
_ATTEMPTS, _CONNECT_S, _SILENCE_S = 2, 2.0, 5.0
_KNOWN_S = 5.0
_REMEMBERED = 1000
GONE_S = 30.0
"""A bucket that did not answer is left alone for so long: each time costs some seconds."""


class TimeLimitedBucket:
    """The bucket of a store, asked with requests that fail soon. For one thread at a time.

    Where the store is a folder, nothing is ever asked, and all is well.
    """

    def __init__(self, store: Store, *, gone_s: float = GONE_S) -> None:
        """gone_s: after a failure nothing is asked for so long."""
        self._store = store
        self._gone_s = gone_s
        self._asked_s = float("-inf")
        self._failed = ""
        self._answers: dict[str, tuple[float, StalError | None]] = {}
        """When something was asked, and what came of it."""

    def ask(self, what: str, request: Callable[[Store], object], *, every_s: float = 0.0) -> StalError | None:
        """Make a request of the store; return why that failed, which is also logged.

        what: what is not known then, for the log. For `gone_s` after a failure of the bucket its reason is returned
            without asking. Other failures, such as of the mirror's disk, are of this request alone.
        every_s: how long the last answer to the same counts.
        """
        if not self._store.in_bucket:
            return None
        asked_s, answer = self._answers.get(what, (float("-inf"), None))
        if time.monotonic() - asked_s >= every_s:
            answer = self._ask(what, request)
            if len(self._answers) >= _REMEMBERED:
                self._answers.clear()
            self._answers[what] = (time.monotonic(), answer)
        return answer

    def _ask(self, what: str, request: Callable[[Store], object]) -> StalError | None:
        if not self._failed or time.monotonic() - self._asked_s >= self._gone_s:
            from cache.object_store.retries import BucketError

            try:
                request(self._impatient)
                self._failed = ""
            except BucketError as error:
                self._failed = str(error)
                _LOG.warning("%s is not known, and not asked for %g s: %s", what, self._gone_s, error)
            except (StalError, OSError) as error:
                _LOG.warning("%s is not known: %s", what, error)
                return StalError(str(error))
            self._asked_s = time.monotonic()
        return StalError(self._failed) if self._failed else None

    def silence(self) -> StalError | None:
        """None when the bucket answers, or did a moment ago; else the reason."""
        if not self._failed and time.monotonic() - self._asked_s < _KNOWN_S:
            return None
        return self.ask("what the bucket has", _look)

    @cached_property
    def _impatient(self) -> Store:
        from cache.object_store.bucket import Bucket
        from cache.object_store.mirror import Mirror
        from cache.object_store.retries import Limits

        mirror = self._store.mirror
        assert mirror is not None  # else nothing is asked
        limits = Limits(attempts=_ATTEMPTS, connect_s=_CONNECT_S, silence_s=_SILENCE_S)
        bucket = Bucket(mirror.bucket.url, limits=limits)
        return replace(self._store, backend=Mirror(mirror.root, bucket, mirror.folder_id, None))


def _look(store: Store) -> None:
    assert store.mirror is not None
    store.mirror.bucket.any(attempts=_ATTEMPTS)
