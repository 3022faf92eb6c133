"""Which feature sets a store has, and finding the one that is meant."""

from dataclasses import dataclass
from pathlib import Path

from cache.feature_store.layout import FeatureManifest
from cache.feature_store.locate import feature_set_folders, set_folder
from cache.feature_store.reader import FeatureSet
from cache.feature_store.row_status import read_row_status
from cache.spec import FeatureSpec, View
from cache.store import Store
from stal_data.errors import ConflictError, InputError, NotFoundError, did_you_mean


@dataclass(frozen=True, kw_only=True)
class FeatureSetInfo:
    """One feature set of a store. num_done: rows safely written, of num_rows. num_bytes: its files on disk."""

    dataset: str
    split: str
    id: str
    spec: FeatureSpec
    num_rows: int
    num_done: int
    num_bytes: int
    path: Path

    @property
    def complete(self) -> bool:
        return self.num_done == self.num_rows


def list_feature_sets(store: Store, dataset: str | None = None, split: str | None = None) -> list[FeatureSetInfo]:
    """Return the sets of the store, or of one data set or split, sorted by data set, split and id."""
    return [describe_feature_set(path) for path in feature_set_folders(store, dataset, split)]


def describe_feature_set(path: Path) -> FeatureSetInfo:
    """Describe the set in a folder without marking it as used."""
    manifest, folder = FeatureManifest.read(path), set_folder(path)
    return FeatureSetInfo(
        dataset=manifest.dataset,
        split=manifest.split,
        id=manifest.spec.id,
        spec=manifest.spec,
        num_rows=manifest.num_rows,
        num_done=int(read_row_status(folder, manifest).done_K.sum()),
        num_bytes=folder.num_bytes(),
        path=path,
    )


def open_feature_set(
    store: Store,
    dataset: str,
    split: str,
    *,
    set_id: str | None = None,
    spec: FeatureSpec | None = None,
    view: View = "identity",
) -> FeatureSet:
    """Open the set with this id, or of exactly this spec, or the only one of this view.

    view: only used when neither set_id nor spec is given.
    """
    folder = store.features_dir(dataset, split)
    found = {path.name: path for path in feature_set_folders(store, dataset, split)}
    if not found:
        raise NotFoundError(
            f"There are no features for {dataset}/{split} in '{store.name}'; run 'stal-cli precompute' on the split."
        )
    if spec is not None:
        set_id = spec.id
        if set_id not in found:
            raise ConflictError(
                f"'{folder}' has no feature set of the spec {set_id}. Fields that differ (wanted / stored): "
                f"{_differences(spec, found)}."
            )
    if set_id is not None:
        if set_id not in found:
            raise NotFoundError(f"'{folder}' has no feature set '{set_id}'. {did_you_mean(set_id, found)}")
        return FeatureSet(found[set_id])
    return FeatureSet(_only(folder, found, view))


def _only(folder: Path, found: dict[str, Path], view: View) -> Path:
    specs = {set_id: FeatureManifest.read(path).spec for set_id, path in found.items()}
    fitting = [set_id for set_id, spec in specs.items() if spec.view == view]
    if not fitting:
        views = ", ".join(f"{set_id} ({spec.view})" for set_id, spec in specs.items())
        raise NotFoundError(
            f"'{folder}' has no feature set of view {view}, only {views}; precompute with --view {view}."
        )
    if len(fitting) > 1:
        first = specs[fitting[0]]
        others = "; ".join(f"{set_id}: {', '.join(first.diff(specs[set_id]))}" for set_id in fitting[1:])
        raise InputError(
            f"'{folder}' has several feature sets of view {view}; name one of {', '.join(fitting)}. "
            f"Against {fitting[0]} these fields differ: {others}."
        )
    return found[fitting[0]]


def _differences(spec: FeatureSpec, found: dict[str, Path]) -> str:
    specs = {set_id: FeatureManifest.read(path).spec for set_id, path in found.items()}
    return "; ".join(f"{set_id}: {', '.join(spec.diff(other))}" for set_id, other in specs.items())
