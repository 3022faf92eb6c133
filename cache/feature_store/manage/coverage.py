"""Which key frames of a split a set has."""

from dataclasses import dataclass
from pathlib import Path

from cache.feature_store.reader import FeatureSet
from cache.split_store import load_split
from cache.store import Store
from stal_data.errors import NotFoundError
from stal_data.keyframes import KeyFrame


@dataclass(frozen=True, kw_only=True)
class Coverage:
    """missing: key frames of the set that are not computed. unknown_to_set, unknown_to_split: where the published
    split and the set do not name the same key frames; None where the split is not published."""

    missing: tuple[KeyFrame, ...]
    unknown_to_set: tuple[KeyFrame, ...] | None
    unknown_to_split: tuple[KeyFrame, ...] | None


def coverage_of(store: Store, path: Path) -> Coverage:
    """Compare the set in folder `path` with its own index and with the split that the store publishes."""
    features = FeatureSet(path)
    keys = features.key_frames
    missing = tuple(key for key, done in zip(keys, features.done, strict=True) if not done)
    try:
        published = {item.key for item in load_split(store, features.dataset, features.split).key_frames}
    except NotFoundError:
        return Coverage(missing=missing, unknown_to_set=None, unknown_to_split=None)
    return Coverage(
        missing=missing,
        unknown_to_set=tuple(sorted(published - set(keys))),
        unknown_to_split=tuple(sorted(set(keys) - published)),
    )
