"""Feature sets that stay open between calls: opening one costs more than a small head's pass. Imports torch."""

import time

from cache.feature_store import FeatureSet
from cache.store import Store
from recognizer_svc.service.models import LoadedModel

KEPT_S = 30.0
"""How long an opened set is used: so long an open one cannot be deleted, and so late a new one is noticed."""


class OpenFeatures:
    """Not safe for several threads: only the scoring thread uses it."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._open: dict[tuple[str, ...], tuple[float, FeatureSet]] = {}

    def get(self, model: LoadedModel, dataset: str, split: str, feature_set: str) -> FeatureSet:
        """The split's set that fits the head; see Predictor.open_features. feature_set: its id, or ""."""
        self.close_old()
        key = (model.info.run_id, model.info.digest, dataset, split, feature_set)
        if key not in self._open:
            found = model.predictor.open_features(self._store, dataset, split, feature_set or None)
            self._open[key] = (time.monotonic(), found)
        return self._open[key][1]

    def close_old(self) -> None:
        """Let go of the sets whose time is over."""
        now = time.monotonic()
        self._open = {key: item for key, item in self._open.items() if now - item[0] < KEPT_S}
