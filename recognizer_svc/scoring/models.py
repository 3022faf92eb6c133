"""Trained heads: the few that are kept loaded, from the copies of runs that this machine has."""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cache.feature_store.set_lock import mark_in_use
from cache.store import Store
from recognizer_svc.runs.run_dir import RunDir
from recognizer_svc.runs.store import RunStore
from recognizer_svc.scoring.model_list import ModelInfo, choose_checkpoint
from recognizer_svc.scoring.predict import Predictor
from stal_data.digests import sha256_of


@dataclass(frozen=True, kw_only=True)
class LoadedModel:
    """A head that is ready to score."""

    info: ModelInfo
    predictor: Predictor


class ModelCache:
    """Loads heads and keeps the last few used. Not safe for several threads: only the scoring thread uses it."""

    def __init__(
        self, store: Store, *, device: str, capacity: int = 4, counted: Callable[[bool], None] | None = None
    ) -> None:
        """counted: told for each head asked for whether it was loaded."""
        self._runs = RunStore.of(store)
        self._counted = counted
        self._device = device
        self._capacity = capacity
        self._loaded: OrderedDict[tuple[str, str], LoadedModel] = OrderedDict()
        self._digests: dict[Path, tuple[tuple[int, int, int], str]] = {}

    def get(self, run_id: str, checkpoint: str) -> LoadedModel:
        """The head of a run. A run that has trained on has another digest, so it is loaded anew.

        checkpoint: best, latest, or "" for best where there is one.
        """
        run = self._runs.find_present(run_id)
        name = choose_checkpoint(run, checkpoint)
        digest = self._digest(run.checkpoint(name))
        model = self._loaded.get((run_id, digest))
        if self._counted is not None:
            self._counted(model is not None)
        if model is None:
            model = self._load(run, name, digest)
            self._loaded[run_id, digest] = model
            if len(self._loaded) > self._capacity:
                self._loaded.popitem(last=False)
        self._loaded.move_to_end((run_id, digest))
        return model

    def _load(self, run: RunDir, name: str, digest: str) -> LoadedModel:
        predictor = Predictor.load(run.checkpoint(name), device=self._device)
        if predictor.device.type != "cpu":
            predictor.warm_up()
        progress, recipe = predictor.checkpoint.progress, predictor.checkpoint.recipe
        info = ModelInfo(
            run_id=run.run_id,
            checkpoint=name,
            digest=digest,
            head=recipe.head.kind,
            epoch=progress.epochs_done,
            validation_map=progress.validation_map,
            label_map=predictor.label_map,
            neighbours=recipe.data.neighbours,
            neighbour_ms=recipe.data.neighbour_ms,
            bank_s=recipe.data.bank_s,
        )
        return LoadedModel(info=info, predictor=predictor)

    def _digest(self, path: Path) -> str:
        """A checkpoint is replaced as a whole, so a file with the same inode, size and time has the same content."""
        stat = path.stat()
        signature = (stat.st_ino, stat.st_size, stat.st_mtime_ns)
        known = self._digests.get(path)
        if known is None or known[0] != signature:
            known = self._digests[path] = (signature, f"sha256:{sha256_of(path)}")
        return known[1]


def load_run(store: Store, run_id: str, checkpoint: str, *, device: str) -> LoadedModel:
    """Load a head as the bucket or the folder has it now, beside those of any cache; may run in any thread.

    As long as it is loaded, nobody deletes the run.
    """
    runs = RunStore.of(store)
    runs.fetch(run_id)
    model = ModelCache(store, device=device).get(run_id, checkpoint)
    mark_in_use(model.predictor, runs.run(run_id).root)
    return model
