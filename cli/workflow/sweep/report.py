"""A sweep from its plan to its files: OUTPUT/sweep.csv, sweep.json and index.html."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cache.split_store import PublishedSplit
from cli.workflow.sweep.final import Against, Predict, Tested, against_others, score_cells
from cli.workflow.sweep.page import page_text
from cli.workflow.sweep.plan import Plan
from cli.workflow.sweep.results import CellResult, Results
from stal_data.files import write_together


@dataclass(kw_only=True)
class Report:
    """What a sweep has found so far, and its files."""

    plan: Plan
    results: Results
    output: Path
    tested: Sequence[Tested] = ()
    against: Sequence[Against] = ()

    @property
    def chosen(self) -> list[CellResult]:
        """The best cell of each recipe, the best of all first."""
        return self.results.chosen()

    def write(self) -> None:
        """Replace the files."""
        page = page_text(self.plan, self.results.cells(), self.chosen, self.tested, self.against)
        write_together(
            {
                self.output / "sweep.csv": self.results.csv_text(),
                self.output / "sweep.json": json.dumps(self.plain(), indent=2, allow_nan=False) + "\n",
                self.output / "index.html": page,
            }
        )

    def test(self, split: PublishedSplit, predict: Predict) -> None:
        """Score the chosen cells on the test split and compare them."""
        self.tested = score_cells(self.chosen, split, predict, self.output)
        self.against = against_others(self.tested)

    def plain(self) -> dict[str, Any]:
        """The content of sweep.json."""
        return {
            "name": self.plan.name,
            "validation": self.plan.chosen_on,
            "set_unasked": list(self.plan.notes),
            "chosen": self.chosen[0].plain() if self.chosen else None,
            "best_of_each_recipe": [cell.plain() for cell in self.chosen],
            "cells": [cell.plain() for cell in self.results.cells()],
            "runs": [result.plain() for result in self.results.by_run.values()],
            "test": [item.plain() for item in self.tested],
            "against": [item.plain() for item in self.against],
        }
