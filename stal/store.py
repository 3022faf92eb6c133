"""What a store holds."""

from dataclasses import dataclass
from pathlib import Path

from cache.feature_store import open_feature_set
from cache.split_store import PublishedSplit, list_splits, load_split
from cache.store import Store as Folders
from recognizer_svc.runs.run_dir import RunDir
from recognizer_svc.runs.store import RunStore
from recognizer_svc.runs.summary import RunSummary, summarise
from stal.features import Features
from stal_data.errors import InputError


def open_store(url: str | Path) -> "Store":
    """Open the store at `url`: a folder, or `s3://BUCKET/PREFIX`.

    Raises StalError where there is none; `stal-cli precompute` makes one.
    """
    return Store(Folders.open(url))


class Store:
    """Splits with their cached features, and trained runs."""

    def __init__(self, folders: Folders) -> None:
        """`open_store` makes one."""
        self.folders = folders

    def __repr__(self) -> str:
        return f"<Store {self.folders.name}>"

    def splits(self) -> list[tuple[str, str]]:
        """Return data set and split of all that is published, sorted."""
        return list_splits(self.folders)

    def split(self, dataset: str, split: str) -> PublishedSplit:
        """Return a split: its key frames with boxes [N, 4] and label ids, exclusions and label map.

        Raises StalError where it is not published or damaged.
        """
        return load_split(self.folders, dataset, split)

    def features(self, dataset: str, split: str, *, feature_set: str | None = None) -> Features:
        """Open the cached features of all key frames of a split.

        feature_set: its id; needed only where the split has several of the view `identity`.
        Raises StalError where there are none, where several could be meant, where key frames are not computed yet, and
        where the set is of another view: boxes belong to the identity view.
        """
        found = open_feature_set(self.folders, dataset, split, set_id=feature_set)
        if found.spec.view != "identity":
            raise InputError(
                f"feature_set {found.id} is of view '{found.spec.view}', but boxes belong to the view 'identity'; "
                "'stal-cli cache ls' lists the sets."
            )
        return Features(self.split(dataset, split), found)

    def runs(self) -> list["Run"]:
        """Return all runs, by name."""
        return [Run(self, run.run_id) for run in RunStore.of(self.folders).all()]

    def run(self, run_id: str) -> "Run":
        """Return a run. Raises StalError where there is none of this name."""
        return Run(self, RunStore.of(self.folders).find(run_id).run_id)


@dataclass(frozen=True)
class Run:
    """A training in a store; `Store.run`, `Store.runs` and `train` return it."""

    store: Store
    id: str

    @property
    def folder(self) -> Path:
        """Its recipe, events and checkpoints (docs/cache-format.md)."""
        return self.store.folders.runs_dir / self.id

    def summary(self) -> RunSummary:
        """Return status, settings, epochs, loss and validation mAP (in [0,1]) as its files have them now."""
        return summarise(RunDir(self.folder))
