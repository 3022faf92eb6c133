"""The head of the page: the figures one quotes, what limits them, and what they were computed from."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from stal_eval.report.wording import capacity_words, count, points

Metrics = Mapping[str, Any]


def cards(metrics: Metrics) -> str:
    """Return the figures as a list of cards."""
    best, chosen = metrics["best"], metrics["chosen"]
    counts, classes, ties = metrics["counts"], metrics["classes"], metrics["ties"]
    truth_rows, rows = counts["scored_ground_truth_rows"], counts["scored_prediction_rows"]
    items = (
        (
            "mAP",
            points(chosen["mAP"]),
            f"{_counted(chosen['capacity'])} The capacity was {escape(chosen['note'])}.",
            _bounds(ties, "chosen"),
        ),
        ("mAP at capacity 50", points(metrics["mAP_at_50"]), _counted(50), _bounds(ties, "at_50")),
        (
            "best mAP",
            points(best["mAP"]),
            f"at {capacity_words(best['capacity'])}, of {_swept(metrics['capacities'])}, on this split",
            _bounds(ties, "best"),
        ),
        ("classes in the mean", str(classes["in_mean"]), f"of {classes['in_label_map']} in the label map", ""),
        (
            "key frames",
            count(counts["key_frames_with_ground_truth"]),
            f"with ground truth; {count(counts['key_frames_with_both'])} of them with predictions",
            f"{count(counts['excluded_key_frames'])} excluded" if counts["excluded_key_frames"] else "",
        ),
        ("ground truth", count(truth_rows), "rows (person and action)", ""),
        (
            "predictions",
            count(rows),
            f"rows (box and action); {100 * ties['tied_rows_share']:.1f} % tie within their class",
            f"{count(counts['prediction_rows_without_ground_truth'])} on key frames without ground truth",
        ),
    )
    cells = "".join(
        f"<li><span>{title}</span><strong>{value}</strong><small>{note}</small>"
        + (f"<small>{more}</small>" if more else "")
        + "</li>"
        for title, value, note, more in items
        if title != "best mAP" or best["capacity"] != chosen["capacity"]
    )
    return f'<ul class="cards">{cells}</ul>'


def warnings(metrics: Metrics) -> str:
    """Return the warnings, and the likely causes of a low mAP with their fixes."""
    items = "".join(f"<li>{escape(text)}</li>" for text in metrics["warnings"])
    return f'<ul class="warnings">{items}</ul>' if items else ""


def inputs(metrics: Metrics) -> str:
    """Return every count, the digests of the inputs, and the versions that computed the result."""
    rows = [(name.replace("_", " "), count(value)) for name, value in metrics["counts"].items()]
    rows += [
        (f"sha256 of {name.replace('_', ' ')}", value or "not given") for name, value in metrics["digests"].items()
    ]
    rows += [(f"version of {name}", value or "unknown") for name, value in metrics["software"].items()]
    cells = "".join(f'<tr><th scope="row">{escape(name)}</th><td>{escape(value)}</td></tr>' for name, value in rows)
    return f'<div class="wide"><table class="inputs"><tbody>{cells}</tbody></table></div>'


def _counted(capacity: int) -> str:
    if not capacity:
        return "Every row counts (no capacity limit)."
    rows = "row counts" if capacity == 1 else f"{count(capacity)} rows count"
    return f"Of each key frame, the best-scored {rows} (capacity {capacity})."


def _swept(capacities: Sequence[int]) -> str:
    return f"{len(capacities)} from {capacities[0]} to {capacities[-1] or 'no limit'}"


def _bounds(ties: Mapping[str, Any], point: str) -> str:
    if point not in ties:
        return ""
    lower, upper = points(ties[point]["mAP_lower"]), points(ties[point]["mAP_upper"])
    if lower == upper:
        return "The same for every order of equal scores."
    return f"{lower} to {upper} with equal scores in other orders."
