"""The table of classes, weakest first; each row opens to its precision-recall curves and error breakdown."""

from collections.abc import Mapping
from html import escape
from typing import Any

from stal_eval.report.errors import breakdown
from stal_eval.report.wording import count, points

# Heading, what it means, which end comes first when sorted, and whether a phone has room for it.
_COLUMNS = (
    ("class", "name of the action", "ascending", True),
    ("AP", "average precision at the reported capacity, points of 100", "ascending", True),
    ("AP at 50", "average precision at capacity 50, points of 100", "ascending", True),
    ("ground truth", "scored ground-truth rows", "descending", True),
    ("predictions", "scored prediction rows", "descending", False),
    ("best F1", "highest F1 over all score thresholds, points of 100", "ascending", False),
    ("precision", "at the best F1, points of 100", "ascending", False),
    ("recall", "at the best F1, points of 100", "ascending", False),
)


def class_table(metrics: Mapping[str, Any]) -> str:
    per_class = metrics["per_class"]
    order = sorted(per_class, key=lambda name: (per_class[name] is None, per_class[name] or 0.0))
    number = {name: position for position, name in enumerate(per_class)}
    sorted_now = ' aria-sort="ascending"'
    heads = "".join(
        f'<th scope="col" data-first="{first}"{_narrow(kept)}{sorted_now if title == "AP" else ""}>'
        f'<button type="button" title="{meaning}">{title}</button></th>'
        for title, meaning, first, kept in _COLUMNS
    )
    rows = "".join(_row(metrics, name, number[name]) for name in order)
    return f'<div class="wide"><table class="classes"><thead><tr>{heads}</tr></thead>{rows}</table></div>'


def _row(metrics: Mapping[str, Any], name: str, number: int) -> str:
    """Return one <tbody>: the row and its details, so that they stay together when sorted."""
    counts, threshold = metrics["class_counts"][name], metrics["best_f1"][name] or {}
    ap = metrics["per_class"][name]
    cells = [
        _cell(ap, points(ap) + _ap_bar(ap), True, "ap"),
        _cell(metrics["per_class_at_50"][name], points(metrics["per_class_at_50"][name]), True),
        _cell(counts["ground_truth"], count(counts["ground_truth"]), True),
        _cell(counts["predictions"], count(counts["predictions"]), False),
        *(_cell(threshold.get(key), points(threshold.get(key)), False) for key in ("f1", "precision", "recall")),
    ]
    title = escape(name)
    return (
        f'<tbody data-class="{number}"><tr><th scope="row" data-value="{title}">'
        f'<button type="button" aria-expanded="false" aria-controls="class-{number}">{title}</button></th>'
        f'{"".join(cells)}</tr><tr class="detail" id="class-{number}"><td colspan="{len(_COLUMNS)}">'
        f"{_detail(metrics, name, number)}</td></tr></tbody>"
    )


def _detail(metrics: Mapping[str, Any], name: str, number: int) -> str:
    if metrics["per_class"][name] is None:
        text = "<p>This class has no ground truth, so it has no AP and takes no part in the mean.</p>"
        return f'<div class="panel">{text}<div>{breakdown(metrics["errors"], name)}</div></div>'
    threshold = metrics["best_f1"][name]
    said = "No row of this class is right."
    if threshold is not None:
        said = (
            f"Best F1 {points(threshold['f1'])} with scores from {threshold['score']:.4g} on: precision "
            f"{points(threshold['precision'])}, recall {points(threshold['recall'])}."
        )
    return (
        f'<div class="panel"><div><div class="chart" data-curve="{number}"></div><p>{said}</p></div>'
        f"<div>{breakdown(metrics['errors'], name)}</div></div>"
    )


def _cell(value: float | None, shown: str, kept: bool, kind: str = "") -> str:
    sort_value = "" if value is None else repr(value)
    return f'<td data-value="{sort_value}"{_narrow(kept, kind)}>{shown}</td>'


def _narrow(kept: bool, kind: str = "") -> str:
    classes = " ".join(filter(None, (kind, "" if kept else "roomy")))
    return f' class="{classes}"' if classes else ""


def _ap_bar(ap: float | None) -> str:
    if ap is None:
        return ""
    return (
        '<svg viewBox="0 0 100 4" preserveAspectRatio="none" aria-hidden="true"><rect class="rail" width="100" '
        f'height="4"/><rect class="fill" width="{100 * ap:.2f}" height="4"/></svg>'
    )
