"""Where a store is in a bucket: which feature sets it has, and the bucket's side of one. Importing this is cheap."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from cache.object_store import mirror_at
from cache.spec import FeatureSpec
from cache.store import Store

if TYPE_CHECKING:
    from cache.feature_store.remote_set import RemoteSet


def remote_set(path: Path) -> "RemoteSet | None":
    """Return the bucket's side of the feature set in folder `path`; None where the folder is all there is."""
    parents = path.absolute().parents
    mirror = mirror_at(parents[3]) if len(parents) > 3 else None
    if mirror is None:
        return None
    from cache.feature_store.remote_set import RemoteSet

    return RemoteSet(mirror, path.absolute())


def how_to_delete(path: Path) -> str:
    """Return the words of an error for deleting the feature set in folder `path`; prune refuses buckets."""
    if (remote := remote_set(path)) is not None:
        return f"delete everything below '{remote.name}/' with the server's own tool when no job uses it"
    if len(path.absolute().parents) < 4:
        return f"delete the folder '{path}'"
    split, dataset, _, root = path.absolute().parents[:4]
    # The id alone would also fit the same spec's sets of other splits.
    which = f"--set {path.name} --dataset {dataset.name} --split {split.name}"
    return f"delete the set with 'stal-cli cache prune {shlex.quote(str(root))} {which}'"


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
