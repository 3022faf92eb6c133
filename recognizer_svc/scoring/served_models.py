"""Heads that somebody has loaded by name: Recognize keeps to them until they are replaced. No torch here."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from recognizer_svc.scoring.model_list import ModelInfo
from stal_data.errors import ConflictError

if TYPE_CHECKING:
    from recognizer_svc.scoring.models import LoadedModel

MAX_SERVED = 8


class ServedModels:
    """One thread loads and unloads, which takes its time, while another scores with what is there."""

    def __init__(self) -> None:
        self._served: dict[tuple[str, str], LoadedModel] = {}

    def load(self, run_id: str, checkpoint: str, load: "Callable[[], LoadedModel]") -> ModelInfo:
        """Put a head in place once it is whole; when `load` raises, the one before stays."""
        key = (run_id, checkpoint)
        if key not in self._served and len(self._served) >= MAX_SERVED:
            names = ", ".join(f"{run}:{name}" if name else run for run, name in self._served)
            raise ConflictError(f"{MAX_SERVED} heads are loaded, which is the most: {names}. Unload one first.")
        model = self._served[key] = load()
        return model.info

    def unload(self, run_id: str, checkpoint: str) -> bool:
        """Forget a head; whether there was one."""
        return self._served.pop((run_id, checkpoint), None) is not None

    def get(self, run_id: str, checkpoint: str) -> "LoadedModel | None":
        """The head in place under this name."""
        return self._served.get((run_id, checkpoint))

    def infos(self) -> list[ModelInfo]:
        return [model.info for model in list(self._served.values())]
