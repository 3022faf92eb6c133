"""Which feature sets a store has, and where each lies. Importing this is cheap."""

from pathlib import Path

from cache.feature_store.set_folder import SetFolder
from cache.object_store import mirror_of_set
from cache.spec import FeatureSpec
from cache.store import Store


def set_folder(path: Path) -> SetFolder:
    """Return where the set of folder `path` lies: there, or in the bucket that the folder's store mirrors."""
    mirror = mirror_of_set(path)
    if mirror is None:
        return SetFolder(path.absolute())
    from cache.feature_store.remote_set import RemoteSet

    return RemoteSet(mirror, path.absolute())


def find_set(store: Store, dataset: str, split: str, spec: FeatureSpec) -> SetFolder:
    """Return where a set of the spec lies or would lie; its `path` exists exactly if the set does."""
    folder = set_folder(store.features_dir(dataset, split) / spec.id)
    folder.refresh()
    return folder


def feature_set_folders(store: Store, dataset: str | None = None, split: str | None = None) -> list[Path]:
    """Return the folders of the sets, also of damaged ones, by data set, split and id; their small files are here."""
    here = set(store.find("features", dataset, split, "[!.]*"))
    elsewhere = {store.root / name for name in store.backend.folders("features", dataset, split)}
    found = [path for path in sorted(here | elsewhere) if set_folder(path).refresh()]
    return [path for path in found if path.is_dir()]
