"""The error breakdown as stacked bars with legends, overall or for one class."""

from collections.abc import Mapping
from html import escape
from typing import Any

from stal_eval.report.wording import POINTS, ROW_WORDS, TRUTH_WORDS, count

_SIDES = (("ground_truth", "Ground truth", TRUTH_WORDS), ("predictions", "Predictions", ROW_WORDS))
_BAR_UNITS = 1000


def switch() -> str:
    """Return the choice of which rows the breakdowns count; without script all of them are shown."""
    options = "".join(
        f'<label><input type="radio" name="point" value="{point}"{" checked" if point == "best_f1" else ""}> '
        f"{escape(words)}</label>"
        for point, words in POINTS.items()
    )
    return f'<fieldset class="switch"><legend>Rows that count</legend>{options}</fieldset>'


def breakdown(errors: Mapping[str, Any], name: str | None = None) -> str:
    """Return the bars of one class, or of all classes together, for every operating point.

    errors: the entry of metrics.json.
    """
    return "".join(
        f'<div class="errors" data-point="{point}"><p class="point">{escape(words)}</p>'
        + "".join(_side(counts[side], title, names) for side, title, names in _SIDES)
        + "</div>"
        for point, words in POINTS.items()
        for counts in (errors[point]["overall"] if name is None else errors[point]["per_class"][name],)
    )


def _side(counts: Mapping[str, int], title: str, words: Mapping[str, str]) -> str:
    total = sum(counts.values())
    items = "".join(
        f'<li class="o-{outcome}"><i></i>{escape(words[outcome])} '
        f"<b>{count(value)}</b> <small>{100 * value / total:.1f}\u202f%</small></li>"
        for outcome, value in counts.items()
        if value
    )
    heading = f"<h4>{title}: {count(total, 'row')}</h4>"
    return f'<div>{heading}{_bar(counts, words, total)}<ul class="legend">{items}</ul></div>'


def _bar(counts: Mapping[str, int], words: Mapping[str, str], total: int) -> str:
    parts, start = [], 0.0
    for outcome, value in counts.items():
        if value:
            width = _BAR_UNITS * value / total
            parts.append(
                f'<rect class="o-{outcome}" x="{start:.2f}" width="{width:.2f}" height="10">'
                f"<title>{escape(words[outcome])}: {value}</title></rect>"
            )
            start += width
    shape = f'viewBox="0 0 {_BAR_UNITS} 10" preserveAspectRatio="none"'
    return f'<svg class="bar" {shape} aria-hidden="true">{"".join(parts)}</svg>'
