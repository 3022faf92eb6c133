"""The Python API of STAL: cached features, training, prediction and evaluation (docs/python-api.md).

import stal
store = stal.open_store("store")
run = stal.train("acar", store=store)
result = stal.evaluate(stal.predict(run, "synthetic", "test"), store.split("synthetic", "test"))

These names are stable; the packages behind them are not. Each is loaded at first use, so importing this package imports
neither torch nor grpc nor pandas.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stal.evaluation import evaluate
    from stal.features import Batch, Features, Sample, collate
    from stal.scoring import Head, Predictions, load_head, predict
    from stal.store import Run, Store, open_store
    from stal.training import train
    from stal_data.errors import StalError
    from stal_data.keyframes import KeyFrame, ScoredKeyFrame
    from stal_data.labels import LabelMap
    from stal_eval.requested import Requested

_MODULES = {
    "stal.evaluation": ("evaluate",),
    "stal.features": ("Batch", "Features", "Sample", "collate"),
    "stal.scoring": ("Head", "Predictions", "load_head", "predict"),
    "stal.store": ("Run", "Store", "open_store"),
    "stal.training": ("train",),
    "stal_data.errors": ("StalError",),
    "stal_data.keyframes": ("KeyFrame", "ScoredKeyFrame"),
    "stal_data.labels": ("LabelMap",),
    "stal_eval.requested": ("Requested",),
}

__all__ = [
    "Batch",
    "Features",
    "Head",
    "KeyFrame",
    "LabelMap",
    "Predictions",
    "Requested",
    "Run",
    "Sample",
    "ScoredKeyFrame",
    "StalError",
    "Store",
    "collate",
    "evaluate",
    "load_head",
    "open_store",
    "predict",
    "train",
]


def __getattr__(name: str) -> Any:
    for module, names in _MODULES.items():
        if name in names:
            return getattr(import_module(module), name)
    raise AttributeError(f"module 'stal' has no attribute '{name}'; it has {', '.join(__all__)}")


def __dir__() -> list[str]:
    return __all__
