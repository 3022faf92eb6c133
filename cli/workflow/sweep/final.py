"""The chosen cells on a test split, once: predicted on ground-truth boxes, scored, and set against each other."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any

from cache.split_store import PublishedSplit, load_split
from cache.store import Store
from cli.workflow.sweep.plan import Cell
from cli.workflow.sweep.results import CellResult
from stal_data.annotations import write_ground_truth
from stal_data.errors import InputError
from stal_data.files import write_together

if TYPE_CHECKING:
    from stal_eval.comparison import Delta
    from stal_eval.stored import Stored

Predict = Callable[[str, Path], None]
"""Scores a run on the test split and writes the predictions file."""


@dataclass(frozen=True, kw_only=True)
class Tested:
    """A cell on the test split. maps, at_50: of each seed, at the reported capacity and at 50."""

    cell: Cell
    maps: tuple[float, ...]
    at_50: tuple[float, ...]
    stored: "tuple[Stored, ...]"

    def plain(self) -> dict[str, object]:
        return {
            "recipe": self.cell.recipe,
            "settings": dict(self.cell.settings),
            "mAP": fmean(self.maps),
            "sd": stdev(self.maps) if len(self.maps) > 1 else None,
            "mAP_by_seed": list(self.maps),
            "mAP_at_50_by_seed": list(self.at_50),
        }


@dataclass(frozen=True, kw_only=True)
class Against:
    """The chosen cell (b) minus the best one of another recipe (a), paired over the videos of the test split.

    mean: of the means over seeds. seeds: of each seed.
    """

    a: Cell
    b: Cell
    mean: "Delta"
    seeds: "tuple[Delta, ...]"

    @property
    def verdict(self) -> str:
        """What may be said."""
        assert self.mean.delta is not None
        words = "is better than" if self.mean.delta > 0 else "is worse than"
        if not self.mean.is_clear:
            words = "is not clearly different from"
        return f"{self.b.title} {words} {self.a.title}"

    def plain(self) -> dict[str, Any]:
        return {
            "a": self.a.title,
            "b": self.b.title,
            "verdict": self.verdict,
            "mean": self.mean.plain(),
            "seeds": [delta.plain() for delta in self.seeds],
        }


def delta_texts(delta: "Delta") -> tuple[str, str]:
    """Return a difference of mAP and its interval, in points of 100."""
    difference, low, high = (f"{100 * (value or 0):+.2f}" for value in (delta.delta, delta.low, delta.high))
    return difference, f"{low} to {high}"


def open_test_split(store: Store, dataset: str, name: str) -> PublishedSplit:
    """Return the split to test on, before anything is trained."""
    split = load_split(store, dataset, name)
    if not split.annotated or split.label_map is None:
        raise InputError(f"--test is {name}, but {dataset}/{name} has no annotations to score against.")
    return split


def score_cells(chosen: Sequence[CellResult], split: PublishedSplit, predict: Predict, output: Path) -> list[Tested]:
    """Predict and score all seeds of each cell; files go below `output`."""
    from stal_eval.preparation import prepare
    from stal_eval.protocol import choose_protocol
    from stal_eval.result import METRICS_FILE
    from stal_eval.scoring import score
    from stal_eval.stored import MATCHES_FILE, matches_content, to_store

    truth, label_map = output / "ground_truth.csv", split.label_map
    assert label_map is not None
    write_ground_truth(truth, split.key_frames)
    tested = []
    for cell in chosen:
        maps, at_50, stored = [], [], []
        for run in cell.runs:
            predictions, folder = output / "predictions" / f"{run.run.run_id}.csv", output / "eval" / run.run.run_id
            predict(run.run.run_id, predictions)
            prepared = prepare(
                predictions,
                truth,
                label_map,
                protocol=choose_protocol("stal"),
                exclusions=split.exclusions,
                split=split.split,
                dataset=split.dataset,
            )
            result = score(prepared)
            write_together(
                {
                    folder / MATCHES_FILE: matches_content(prepared, result),
                    folder / METRICS_FILE: result.metrics_text(),
                }
            )
            maps.append(result.mean_ap)
            at_50.append(result.mean_ap_at_50)
            stored.append(to_store(prepared, result))
        tested.append(Tested(cell=cell.cell, maps=tuple(maps), at_50=tuple(at_50), stored=tuple(stored)))
    return tested


def against_others(tested: Sequence[Tested]) -> list[Against]:
    """Set the first cell against each of the others."""
    from stal_eval.comparison import compare, compare_means

    best, *others = tested
    return [
        Against(
            a=other.cell,
            b=best.cell,
            mean=compare_means(other.stored, best.stored),
            seeds=tuple(compare(a, b).mean_ap for a, b in zip(other.stored, best.stored, strict=True)),
        )
        for other in others
    ]
