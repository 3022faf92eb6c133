"""Where a store is in a bucket: which feature sets it has, and the bucket's side of one. Importing this is cheap."""

from pathlib import Path
from typing import TYPE_CHECKING

from cache.feature_store.deleting import mirror_of
from cache.spec import FeatureSpec
from cache.store import Store

if TYPE_CHECKING:
    from cache.feature_store.remote_set import RemoteSet


def remote_set(path: Path) -> "RemoteSet | None":
    """Return the bucket's side of the feature set in folder `path`; None where the folder is all there is."""
    mirror = mirror_of(path)
    if mirror is None:
        return None
    from cache.feature_store.remote_set import RemoteSet

    return RemoteSet(mirror, path.absolute())


def set_folder(store: Store, dataset: str, split: str, spec: FeatureSpec) -> Path:
    """Return the folder of a feature set, which exists exactly if the set does."""
    path = store.features_dir(dataset, split) / spec.id
    if (remote := remote_set(path)) is not None:
        remote.refresh()
    return path


def refresh_sets(store: Store, dataset: str | None, split: str | None) -> None:
    """Bring the small files of the sets that the bucket has, and remove those of sets that it has no more."""
    if store.mirror is None:
        return
    here = set(store.find("features", dataset, split, "[!.]*"))
    there = {store.root / name for name in store.mirror.folders("features", dataset, split)}
    for path in sorted(here | there):
        if (remote := remote_set(path)) is not None:
            remote.refresh()
