"""The numbers behind the page's charts, as JSON that is safe inside a page."""

import json
from collections.abc import Mapping
from typing import Any

_DIGITS = 5  # a thousandth of a point of mAP


def chart_data(metrics: Mapping[str, Any]) -> str:
    """Return the curve over capacities and the precision-recall curves; classes are numbered as in `per_class`."""
    # "No limit" has no place on the axis.
    shown = [place for place, capacity in enumerate(metrics["capacities"]) if capacity > 0]
    data = {
        "capacity": {
            "x": [metrics["capacities"][place] for place in shown],
            **{
                name: [round(100 * metrics[key][place], _DIGITS - 2) for place in shown]
                for name, key in (("map", "mAP"), ("lower", "mAP_lower"), ("upper", "mAP_upper"))
                if key in metrics
            },
            "chosen": {
                "capacity": metrics["chosen"]["capacity"],
                "map": round(100 * metrics["chosen"]["mAP"], _DIGITS - 2),
            },
        },
        "classes": list(metrics["per_class"]),
        "curves": {
            point: [None if curve is None else _rounded(curve) for curve in curves.values()]
            for point, curves in metrics["precision_recall"].items()
        },
        "best_f1": list(metrics["best_f1"].values()),
    }
    return inline_json(data)


def inline_json(value: object) -> str:
    """Return JSON for a script element: without any "<", so neither a closing tag nor a comment can end it early."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def _rounded(curve: Mapping[str, list[float]]) -> dict[str, list[float]]:
    return {name: [float(f"{value:.{_DIGITS}g}") for value in values] for name, values in curve.items()}
