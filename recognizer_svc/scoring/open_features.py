"""Feature sets that stay open between calls: opening one costs more than a small head's pass. Imports torch."""

import time

from cache.feature_store import FeatureSet
from cache.store import Store
from recognizer_svc.runs.time_limited_bucket import TimeLimitedBucket
from recognizer_svc.scoring.models import LoadedModel

KEPT_S = 30.0
"""How long an opened set is used: so long an open one cannot be deleted, and so late a new one is noticed."""


class OpenFeatures:
    """Not safe for several threads: only the scoring thread uses it."""

    def __init__(self, store: Store, bucket: TimeLimitedBucket) -> None:
        self._store, self._bucket = store, bucket
        self._open: dict[tuple[str, ...], tuple[float, FeatureSet]] = {}

    def get(self, model: LoadedModel, dataset: str, split: str, feature_set: str) -> FeatureSet:
        """The split's set that fits the head; see Predictor.open_features. feature_set: its id, or ""."""
        self.close_old()
        key = (model.info.run_id, model.info.digest, dataset, split, feature_set)
        if key not in self._open:
            if (silence := self._bucket.silence()) is not None:
                raise silence
            found = model.predictor.open_features(self._store, dataset, split, feature_set or None)
            self._open[key] = (time.monotonic(), found)
        return self._open[key][1]

    def close_old(self) -> None:
        """Let go of the sets whose time is over; of none while the bucket is gone: it could not be opened again."""
        now = time.monotonic()
        kept = {key: item for key, item in self._open.items() if now - item[0] < KEPT_S}
        if len(kept) < len(self._open) and self._bucket.silence() is None:
            self._open = kept
