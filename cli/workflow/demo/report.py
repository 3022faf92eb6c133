"""The demo's result: summary.json, a table on the terminal, pictures and one page that shows them."""

import json
from dataclasses import dataclass
from itertools import product
from statistics import fmean
from typing import Any

import click

from cli.workflow.demo.heads import BASELINE, HEADS
from cli.workflow.demo.page import BOXES_TITLES, ahead, list_text, write_page
from cli.workflow.demo.pictures import draw_examples
from cli.workflow.demo.settings import DemoSettings
from cli.workflow.demo.workflow import BOXES, Folders
from cli.workflow.stages import Stages
from stal_data.dataset import Dataset
from stal_data.files import write_atomically
from stal_data.labels import LabelMap

INTERACTION = "PERSON_INTERACTION"


@dataclass(frozen=True)
class Scores:
    """What one kind of boxes and one head scored on the test split, one metrics dict for each head seed."""

    metrics: tuple[dict[str, Any], ...]
    interactions: frozenset[str]

    def interaction_ap(self, index: int) -> float:
        """Mean AP of the interaction classes at the best capacity, for one seed."""
        per_class = self.metrics[index]["per_class"]
        values = [ap for name, ap in per_class.items() if name in self.interactions and ap is not None]
        return fmean(values) if values else 0.0

    def summary(self) -> dict[str, Any]:
        """The first seed's figures, and every seed's beside them."""
        first = self.metrics[0]
        seeds = range(len(self.metrics))
        return {
            "mAP": first["best"]["mAP"],
            "capacity": first["best"]["capacity"],
            "mAP_at_50": first["mAP_at_50"],
            "interaction_AP": self.interaction_ap(0),
            "mAP_by_seed": [metrics["best"]["mAP"] for metrics in self.metrics],
            "interaction_AP_by_seed": [self.interaction_ap(index) for index in seeds],
        }


def write_report(stages: Stages, folders: Folders, settings: DemoSettings) -> dict[str, Any]:
    """Write summary.json, the pictures and index.html below the demo folder; return the summary."""
    from stal_eval.figures import plot_capacity_curves, plot_per_class

    dataset = Dataset.open(folders.data)
    assert dataset.label_map is not None
    scores = _read_scores(folders, settings, dataset.label_map)
    best, seed = next(iter(HEADS)), settings.head_seeds[0]
    summary: dict[str, Any] = {
        boxes: {head: scores[boxes, head].summary() | _ahead(folders, boxes, head, seed) for head in HEADS}
        for boxes in BOXES
    } | {
        "head_seeds": list(settings.head_seeds),
        "interaction_classes": sorted(scores["ground_truth_boxes", best].interactions),
        "wall_s": stages.wall_s | {"total": round(sum(stages.wall_s.values()), 2)},
    }
    pictures = folders.root / "pictures"
    pictures.mkdir(exist_ok=True)
    drawn = {
        boxes: {
            f"{HEADS[head].title}, {BOXES_TITLES[boxes]}": scores[boxes, head].metrics[0]
            for head in HEADS
            if HEADS[head].drawn
        }
        for boxes in BOXES
    }
    plot_capacity_curves(drawn["ground_truth_boxes"] | drawn["detected_boxes"], pictures / "capacity.png")
    groups = dict(zip(dataset.label_map.names, dataset.label_map.types, strict=True))
    plot_per_class(drawn["ground_truth_boxes"], pictures / "per_class.png", groups=groups)
    examples = draw_examples(dataset.split("test"), folders.predictions("detected_boxes", best, seed), pictures)
    write_page(folders.root / "index.html", summary, examples)
    write_atomically(folders.root / "summary.json", json.dumps(summary, indent=2) + "\n")
    return summary


def _read_scores(folders: Folders, settings: DemoSettings, label_map: LabelMap) -> dict[tuple[str, str], Scores]:
    kinds = zip(label_map.names, label_map.types, strict=True)
    interactions = frozenset(name for name, kind in kinds if kind == INTERACTION)
    return {
        (boxes, head): Scores(
            tuple(
                json.loads((folders.evaluation(boxes, head, seed) / "metrics.json").read_text())
                for seed in settings.head_seeds
            ),
            interactions,
        )
        for boxes in BOXES
        for head in HEADS
    }


def _ahead(folders: Folders, boxes: str, head: str, seed: int) -> dict[str, Any]:
    """By how much a head is ahead of the linear one, with its 95 % interval over videos."""
    from stal_eval.comparison import compare
    from stal_eval.stored import read_matches

    if head == BASELINE:
        return {}
    baseline, other = (read_matches(folders.evaluation(boxes, name, seed)) for name in (BASELINE, head))
    delta = compare(baseline, other).mean_ap
    return {"ahead_of_linear": {"mAP": delta.delta, "low": delta.low, "high": delta.high}}


def print_table(summary: dict[str, Any]) -> None:
    """Print one table: a row for each kind of boxes and head."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title="Synthetic test split, first head seed")
    table.add_column("boxes")
    table.add_column("head")
    for heading in ("mAP", "capacity", "mAP at 50", "interactions", "ahead of linear"):
        table.add_column(heading, justify="right", no_wrap=True)
    seeds = Table(title=f"Head seeds {' '.join(map(str, summary['head_seeds']))}")
    for heading in ("boxes", "head", "mAP", "interactions"):
        seeds.add_column(heading)
    for boxes, head in product(BOXES, HEADS):
        row, words = summary[boxes][head], BOXES_TITLES[boxes]
        figures = (f"{row[name]:.3f}" for name in ("mAP_at_50", "interaction_AP"))
        title = HEADS[head].title
        table.add_row(words, title, f"{row['mAP']:.3f}", str(row["capacity"]), *figures, ahead(row))
        seeds.add_row(words, title, *(list_text(row[name]) for name in ("mAP_by_seed", "interaction_AP_by_seed")))
    click.echo()
    console = Console()
    console.print(table)
    if len(summary["head_seeds"]) > 1:
        console.print(seeds)
    click.echo(f"Wall time of all stages: {summary['wall_s']['total'] / 60:.1f} minutes.")
