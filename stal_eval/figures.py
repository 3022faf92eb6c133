"""Pictures of metrics.json: mAP over capacity, and AP of every class for several runs (extra `report`)."""

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stal_data.errors import InputError
from stal_data.files import write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Metrics = Mapping[str, Any]
"""The content of a metrics.json."""

# Okabe and Ito's palette: told apart by people with any kind of colour vision.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_DASHES = ("-", "--", "-.", ":")
_MIN_POINTS = 1.0  # of mAP on the axis, so that a flat curve looks flat
_BAR_INCHES = 0.11
_GROUP_GAP = 0.35  # share of a class's height that stays free


def plot_capacity_curves(runs: Mapping[str, Metrics], path: Path) -> None:
    """Draw mAP over capacity, one curve a run, its best capacity marked; the path's ending picks PNG or SVG.

    A band around a curve shows where other orders of equal scores would put it.
    """
    _check_runs(runs)
    figure, axes = _new_figure(width=8, height=4.5)
    span = (math.inf, 0)
    for index, (name, metrics) in enumerate(runs.items()):
        points = [(c, 100 * ap) for c, ap in zip(metrics["capacities"], metrics["mAP"], strict=True) if c > 0]
        best = metrics["best"]
        where = f"at {best['capacity']}" if best["capacity"] else "without a limit"
        label = f"{name}: best {100 * best['mAP']:.1f} {where}, {100 * metrics['mAP_at_50']:.1f} at 50"
        colour = _COLOURS[index % len(_COLOURS)]
        dash = _DASHES[index % len(_DASHES)]  # curves often coincide
        axes.plot([c for c, _ in points], [ap for _, ap in points], dash, color=colour, label=label, linewidth=1.6)
        if "mAP_lower" in metrics:
            lower, upper = ([100 * ap for ap in metrics[side][: len(points)]] for side in ("mAP_lower", "mAP_upper"))
            axes.fill_between([c for c, _ in points], lower, upper, color=colour, alpha=0.15, linewidth=0)
        if best["capacity"]:
            axes.plot(best["capacity"], 100 * best["mAP"], "o", color=colour, markersize=6)
        if points:
            span = (min(span[0], points[0][0]), max(span[1], points[-1][0]))
    # Most of what happens, happens at small capacities.
    if span[1] > 10 * span[0] > 0:
        axes.set_xscale("log")
        _plain_log_ticks(axes, int(span[0]), int(span[1]))
    low, high = axes.get_ylim()
    if high - low < _MIN_POINTS:
        axes.set_ylim((low + high - _MIN_POINTS) / 2, (low + high + _MIN_POINTS) / 2)
    axes.set_xlabel("capacity (best-scored rows kept of each key frame)")
    axes.set_ylabel("mAP at IoU 0.5 (points of 100)")
    axes.grid(alpha=0.3)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), frameon=False, fontsize=9)
    _save(figure, path)


def plot_per_class(runs: Mapping[str, Metrics], path: Path, groups: Mapping[str, str] | None = None) -> None:
    """Draw AP of every class at each run's best capacity as bars, the runs side by side.

    groups: class name to group (such as the label type); classes are then listed group by group. Within a group the
    first run's best classes come first. Classes without ground truth are listed below the picture.
    """
    from matplotlib.patches import Patch

    _check_runs(runs)
    sections, without = _order_classes(list(runs.values()), groups or {})
    count = sum(len(names) for names in sections.values())
    height = 1.6 + count * (_BAR_INCHES * len(runs) + 0.1) + 0.3 * len(sections) + 0.2 * len(runs)
    figure, axes = _new_figure(width=8, height=height)
    position, ticks, labels = 0.0, [], []
    for group, names in sections.items():
        if group:
            axes.text(0, position, group, fontweight="bold", fontsize=9, va="center")
            position += 0.9
        for name in names:
            _draw_bars(axes, position, [metrics["per_class"].get(name) for metrics in runs.values()])
            ticks.append(position)
            labels.append(name)
            position += 1
        position += 0.2
    axes.set_yticks(ticks, labels, fontsize=9)
    axes.set_ylim(position - 0.4, -0.8)
    axes.set_xlim(0, 108)
    axes.set_xlabel("AP at IoU 0.5 (points of 100)")
    axes.grid(axis="x", alpha=0.3)
    axes.set_axisbelow(True)
    handles = [Patch(color=_COLOURS[index % len(_COLOURS)]) for index in range(len(runs))]
    texts = [f"{name} (mAP {100 * metrics['best']['mAP']:.1f})" for name, metrics in runs.items()]
    figure.legend(handles, texts, loc="outside upper center", frameon=False, fontsize=9, ncols=2)
    if without:
        figure.supxlabel(f"no ground truth: {', '.join(without)}", fontsize=8, wrap=True)
    _save(figure, path)


def _draw_bars(axes: "Axes", position: float, values: Sequence[float | None]) -> None:
    thickness = (1 - _GROUP_GAP) / len(values)
    for index, value in enumerate(values):
        if value is None:
            continue
        y = position + (index - (len(values) - 1) / 2) * thickness
        axes.barh(y, 100 * value, height=thickness, color=_COLOURS[index % len(_COLOURS)])
        axes.text(100 * value + 0.8, y, f"{100 * value:.0f}", fontsize=7, va="center")


def _order_classes(runs: Sequence[Metrics], groups: Mapping[str, str]) -> tuple[dict[str, list[str]], list[str]]:
    """Return class names by group, best first, and the classes that no run has ground truth for."""
    names = list(dict.fromkeys(name for metrics in runs for name in metrics["per_class"]))
    first_ap = {
        name: next((ap for metrics in runs if (ap := metrics["per_class"].get(name)) is not None), None)
        for name in names
    }
    sections: dict[str, list[str]] = {}
    for name in names:
        if first_ap[name] is not None:
            sections.setdefault(groups.get(name, ""), []).append(name)
    for members in sections.values():
        members.sort(key=lambda name: -(first_ap[name] or 0.0))
    return sections, [name for name in names if first_ap[name] is None]


def _check_runs(runs: Mapping[str, Metrics]) -> None:
    if not runs:
        raise InputError("There is no run to draw: give at least one metrics.json.")


def _new_figure(*, width: float, height: float) -> tuple["Figure", "Axes"]:
    # The Figure class alone, without pyplot, keeps no state between calls and needs no display.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def _plain_log_ticks(axes: "Axes", low: int, high: int) -> None:
    ticks = [step * 10**power for power in range(7) for step in (1, 2, 5) if low <= step * 10**power <= high]
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_off()


def _save(figure: "Figure", path: Path) -> None:
    if path.suffix.lower() not in (".png", ".svg"):
        raise InputError(f"The picture {path} ends in '{path.suffix}', but must end in .png or .svg.")
    content = io.BytesIO()
    figure.savefig(content, format=path.suffix.lower().removeprefix("."), dpi=150)
    write_atomically(path, content.getvalue())
