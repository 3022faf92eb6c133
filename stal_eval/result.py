"""The outcome of an evaluation, and the metrics.json that holds it."""

import json
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from stal_data.errors import InputError
from stal_data.files import write_atomically
from stal_data.labels import LabelMap
from stal_eval.chosen_capacity import Choice, ScoredSplit
from stal_eval.curve import Curve
from stal_eval.finding import Finding
from stal_eval.protocol import Protocol

if TYPE_CHECKING:  # pandas and compiled code, which holding a result does not need
    from stal_eval.alignment import Counts
    from stal_eval.details import Details

METRICS_FILE = "metrics.json"
METRICS_FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class Best:
    """The capacity with the highest mAP on the scored split (the smallest of equals)."""

    capacity: int
    mean_ap: float


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Average precision of K classes; all figures are fractions in [0,1].

    curve: at the capacities that were asked for; near to what the protocol computes where it is not exact, which every
    other figure is. at_50: at capacity 50, whether or not it was asked for. reported: at
    the capacity of `choice`. split: what was scored. truth_count_K, prediction_count_K: scored rows of each class.
    tied_rows: scored rows that share their class and score with another. digests: sha256 of each input (None: not
    given). details: why it is what it is, class by class. findings: likely causes of a low mAP. optional: what was
    `Requested`, as entries of metrics.json.
    """

    curve: Curve
    curve_is_exact: bool
    best: Best
    at_50: Curve
    reported: Curve
    choice: Choice
    split: ScoredSplit
    label_map: LabelMap
    protocol: Protocol
    truth_count_K: NDArray[np.int64]
    prediction_count_K: NDArray[np.int64]
    counts: "Counts"
    tied_rows: int
    digests: dict[str, str | None]
    details: "Details"
    optional: dict[str, Any]
    findings: tuple[Finding, ...]
    warnings: tuple[str, ...]

    @property
    def capacities(self) -> tuple[int, ...]:
        """Increasing; 0, which is no limit, comes last."""
        return self.curve.capacities

    @property
    def mean_ap_C(self) -> NDArray[np.float64]:
        """mAP at each capacity: the mean over the classes that the protocol counts."""
        return self.curve.mean_ap_C

    @property
    def mean_ap_at_50(self) -> float:
        return float(self.at_50.mean_ap_C[0])

    @property
    def mean_ap(self) -> float:
        """mAP at the reported capacity."""
        return float(self.reported.mean_ap_C[0])

    def per_class(self, capacity: int | None = None) -> dict[str, float | None]:
        """AP by class name at a capacity of the sweep (default: the reported one); None when not in the mean."""
        if capacity is None:
            return self._by_name(self.reported.ap_CK[0])
        if capacity not in self.capacities:
            raise InputError(f"capacity {capacity} is not in this sweep: add it to `capacities`.")
        return self._by_name(self.curve.ap_CK[self.capacities.index(capacity)])

    def metrics(self) -> dict[str, Any]:
        """Return everything as plain values, the content of metrics.json (docs/evaluation.md describes the fields)."""
        names = self.label_map.names
        without = [name for name, count in zip(names, self.truth_count_K, strict=True) if count == 0]
        return {
            "format": METRICS_FORMAT,
            "protocol": self.protocol.describe(),
            "split": {"name": self.split.name, "dataset": self.split.dataset},
            "chosen": self._chosen(),
            "best": {"capacity": self.best.capacity, "mAP": self.best.mean_ap},
            "mAP_at_50": self.mean_ap_at_50,
            "iou": self.protocol.iou,
            "classes": {
                "in_label_map": len(names),
                "in_mean": int((~np.isnan(self.curve.ap_CK[0])).sum()),
                "without_ground_truth": without,
            },
            "per_class": self.per_class(),
            "per_class_at_50": self._by_name(self.at_50.ap_CK[0]),
            "class_counts": {
                name: {"ground_truth": int(truth), "predictions": int(predictions)}
                for name, truth, predictions in zip(names, self.truth_count_K, self.prediction_count_K, strict=True)
            },
            "counts": asdict(self.counts),
            "ties": self._ties(),
            "findings": [asdict(finding) for finding in self.findings],
            "warnings": list(self.warnings),
            "digests": self.digests,
            "software": {name: _version(name) for name in ("stal", "numpy", "pandas", "numba")},
            "capacities": list(self.capacities),
            "mAP": self.mean_ap_C.tolist(),
            "mAP_is_exact": self.curve_is_exact,
            **self._tie_lists(),
            **self.details.plain(names),
            **self.optional,
        }

    def write(self, folder: Path | str) -> Path:
        """Write metrics.json into `folder` in one step, creating the folder; return the file's path."""
        path = Path(folder) / METRICS_FILE
        write_atomically(path, self.metrics_text())
        return path

    def metrics_text(self) -> str:
        """Return the content of metrics.json."""
        return json.dumps(self.metrics(), indent=2, allow_nan=False) + "\n"

    def _chosen(self) -> dict[str, Any]:
        split = self.choice.split
        return {
            "capacity": self.choice.capacity,
            "mAP": self.mean_ap,
            "protocol": self.choice.protocol,
            "chosen_on": split
            and {
                "split": split.name,
                "dataset": split.dataset,
                "ground_truth": split.ground_truth_digest,
                "predictions": split.predictions_digest,
                "is_scored_split": self.choice.is_on(self.split),
            },
            "note": self.choice.describe(self.split),
        }

    def _ties(self) -> dict[str, Any]:
        summary: dict[str, Any] = {
            "tied_rows": self.tied_rows,
            "tied_rows_share": self.tied_rows / max(self.counts.scored_prediction_rows, 1),
        }
        best = self.capacities.index(self.best.capacity)
        places = (("best", self.curve, best), ("chosen", self.reported, 0), ("at_50", self.at_50, 0))
        for name, curve, index in places:
            bounds = curve.mean_bounds_C()
            if bounds is not None:
                summary[name] = {"mAP_lower": float(bounds[0][index]), "mAP_upper": float(bounds[1][index])}
        return summary

    def _tie_lists(self) -> dict[str, list[float]]:
        bounds = self.curve.mean_bounds_C()
        if bounds is None or self.curve.ties is None:
            return {}
        return {
            "mAP_lower": bounds[0].tolist(),
            "mAP_upper": bounds[1].tolist(),
            "key_frames_cut_inside_tie": self.curve.ties.cut_key_frames_C.tolist(),
        }

    def _by_name(self, ap_K: NDArray[np.float64]) -> dict[str, float | None]:
        return {name: None if np.isnan(ap) else float(ap) for name, ap in zip(self.label_map.names, ap_K, strict=True)}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
