"""The demo's page: one HTML file beside its pictures, readable from disk, on a phone and in the dark."""

from html import escape
from pathlib import Path
from typing import Any

from cli.workflow.demo.heads import HEADS
from cli.workflow.demo.pictures import MIN_SCORE, Example
from cli.workflow.demo.workflow import Folders
from cli.workflow.html import page_head, table
from stal_data.files import write_atomically

BOXES_TITLES = {"ground_truth_boxes": "ground-truth boxes", "detected_boxes": "detected boxes"}


def write_page(path: Path, summary: dict[str, Any], examples: list[Example]) -> None:
    """Write the page; pictures are linked relative to it."""
    parts = [
        page_head("STAL demo"),
        "<h1>STAL demo: the synthetic test split</h1>",
        "<p>mAP at IoU 0.5 over the action classes. Capacity is the number of best-scored rows (box and class) kept "
        "for each key frame; the best one is chosen on this very split, as the published figures are, so mAP at 50 "
        "stands beside it.</p>",
        _scores(summary, Folders(path.parent)),
        _picture("pictures/capacity.png", "mAP over capacity", "mAP over capacity, the first head seed."),
        _picture("pictures/per_class.png", "AP of each class", "AP of each class, ground-truth boxes."),
        "<h2>Test frames</h2>",
        f"<p>Boxes by the detector, actions by the relation head, those scored at least {MIN_SCORE}; below each "
        "picture what the ground truth says. Frames are picked evenly over the split.</p>",
        '<div class="frames">',
        *(_example(path.parent, example) for example in examples),
        "</div>",
        "<h2>Time</h2>",
        table(("stage", "", "seconds"), ((name, "", f"{value:.1f}") for name, value in summary["wall_s"].items())),
        "</body></html>\n",
    ]
    write_atomically(path, "\n".join(parts))


def ahead(row: dict[str, Any]) -> str:
    """By how much a head is ahead of the linear one, in points of 100; empty for that one."""
    if (found := row.get("ahead_of_linear")) is None:
        return ""
    values = [100 * found[name] for name in ("mAP", "low", "high") if found[name] is not None]
    return f"{values[0]:+.1f} ({values[1]:+.1f} to {values[2]:+.1f})" if len(values) == 3 else ""


def _scores(summary: dict[str, Any], folders: Folders) -> str:
    seeds = ", ".join(str(seed) for seed in summary["head_seeds"])
    rows = [
        f"<tr><td>{BOXES_TITLES[boxes]}</td><td>{HEADS[head].title}</td><td>{row['mAP']:.3f}</td>"
        f"<td>{row['capacity']}</td><td>{row['mAP_at_50']:.3f}</td><td>{row['interaction_AP']:.3f}</td>"
        f"<td>{ahead(row)}</td>"
        f"<td>{list_text(row['mAP_by_seed'])}</td><td>{list_text(row['interaction_AP_by_seed'])}</td>"
        f"<td>{_reports(folders, boxes, head, summary['head_seeds'])}</td></tr>"
        for boxes in BOXES_TITLES
        for head, row in summary[boxes].items()
    ]
    return (
        '<div class="wide"><table><thead><tr><th>boxes</th><th>head</th><th>mAP</th><th>at capacity</th>'
        f"<th>mAP at 50</th><th>interactions</th><th>ahead of linear, 95 % interval</th><th>mAP, seeds {seeds}</th>"
        f"<th>interactions, seeds {seeds}</th>"
        f"<th>reports</th></tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
        f"<p>Interaction classes: {escape(', '.join(summary['interaction_classes']))}. The intervals are of a paired "
        "bootstrap over the videos, in points of 100, for the first seed.</p>"
        "<p>All heads are trained on one feature cache. <i>relation</i> is given the mean over time of SlowFast's maps "
        "and their slope, which tells what comes later from what comes earlier, and so who chases and who flees; "
        "<i>time means only</i> is the same head without the slope. <i>ACAR</i> is given the same, and has "
        "standardised inputs, mean and maximum of each region, a linear branch and a longer schedule beside the "
        "published head. The settings of these two were chosen on held-out videos of the training split, the "
        "detector's epochs on videos of another seed. The loss, the steps of the backbones and the detector's overlap "
        "were chosen while looking at an earlier test split.</p>"
    )


def _reports(folders: Folders, boxes: str, head: str, seeds: list[int]) -> str:
    """Return a link to the evaluation report of each seed."""
    paths = ((folders.evaluation(boxes, head, seed) / "report.html").relative_to(folders.root) for seed in seeds)
    links = (f'<a href="{path.as_posix()}">seed {seed}</a>' for seed, path in zip(seeds, paths, strict=True))
    return " ".join(links)


def list_text(values: list[float]) -> str:
    """Return figures of several seeds."""
    return " ".join(f"{value:.3f}" for value in values)


def _picture(source: str, alt: str, caption: str) -> str:
    return f'<figure><img src="{source}" alt="{alt}"><figcaption>{caption}</figcaption></figure>'


def _example(root: Path, example: Example) -> str:
    source = example.picture.relative_to(root).as_posix()
    return (
        f'<figure><img src="{escape(source)}" alt="{escape(str(example.key))}" loading="lazy">'
        f"<figcaption>{escape(str(example.key))}: {escape('; '.join(example.truth))}</figcaption></figure>"
    )
