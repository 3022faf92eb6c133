"""The sweep's page: one HTML file without script, readable from disk and in the dark."""

from collections.abc import Sequence
from html import escape
from statistics import fmean, stdev

from cli.workflow.html import page_head, table
from cli.workflow.sweep.final import Against, Tested, delta_texts
from cli.workflow.sweep.plan import Plan
from cli.workflow.sweep.results import CellResult, figure
from stal_data.amounts import amount

_COLOURS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#17becf")
"""Of the best cells of a recipe, best first; the others are grey."""
_GREY = "#8888"
_WIDTH, _HEIGHT, _LEFT, _BOTTOM = 720, 320, 50, 30


def page_text(
    plan: Plan,
    cells: Sequence[CellResult],
    chosen: Sequence[CellResult],
    tested: Sequence[Tested],
    against: Sequence[Against],
) -> str:
    """Return the page. chosen: the best cell of each recipe, the best of all first."""
    recipes = dict.fromkeys(cell.cell.recipe for cell in cells)
    parts = [
        page_head(f"Sweep {plan.name}"),
        f"<h1>Sweep {escape(plan.name)}</h1>",
        f"<p>Validation: {escape(plan.chosen_on)}, ground-truth boxes, no capacity. The choice is made on the mean "
        f"over the seeds of the last epoch's validation mAP{', never on the test split' if tested else ''}.</p>",
        f"<p><b>Chosen: {escape(chosen[0].cell.title)}</b>, {figure(chosen[0].mean, chosen[0].sd)}.</p>"
        if chosen
        else "<p>No cell has all its seeds yet.</p>",
        *(_chart(recipe, [cell for cell in cells if cell.cell.recipe == recipe]) for recipe in recipes),
        "<h2>Cells</h2>",
        _cells(cells, chosen),
        *([f"<h2>Test: {amount(len(tested), 'cell')}</h2>", _tested(tested)] if tested else ()),
        *map(_against, against),
        "</body></html>\n",
    ]
    return "\n".join(parts)


def _cells(cells: Sequence[CellResult], chosen: Sequence[CellResult]) -> str:
    def row(cell: CellResult) -> tuple[str, ...]:
        done = [run for run in cell.runs if run.finished]
        problems = "; ".join(f"seed {run.run.seed}: {run.error}" for run in cell.runs if run.error)
        mark = "chosen" if cell in chosen[:1] else "best of its recipe" if cell in chosen else ""
        seconds = f"{fmean(run.train_s for run in done):.1f}" if done else "-"
        last = " ".join(figure(run.last) for run in cell.runs)
        return cell.cell.title, mark or problems, figure(cell.mean, cell.sd), last, seconds

    ranked = sorted(cells, key=lambda cell: -(cell.mean or 0.0))
    return table(("cell", "", "validation mAP", "by seed", "seconds a run"), map(row, ranked))


def _tested(tested: Sequence[Tested]) -> str:
    rows = []
    for item in tested:
        spread = stdev(item.maps) if len(item.maps) > 1 else None
        seeds = " ".join(map(figure, item.maps))
        rows.append((item.cell.title, "", figure(fmean(item.maps), spread), seeds, figure(fmean(item.at_50))))
    return table(("cell", "", "mAP at the best capacity", "by seed", "mAP at 50"), rows)


def _against(against: Against) -> str:
    deltas = [("mean", against.mean), *((f"seed {number}", delta) for number, delta in enumerate(against.seeds))]
    rows = [(name, "", *delta_texts(delta)) for name, delta in deltas]
    head = ("", "", "difference in points of 100", "95 % interval over videos")
    return f"<p><b>{escape(against.verdict)}</b> (paired bootstrap over videos).</p>{table(head, rows)}"


def _chart(recipe: str, cells: Sequence[CellResult]) -> str:
    """Return the curves of a recipe's cells: mean over the seeds, with one standard deviation to each side."""
    curves = [(cell, points) for cell in cells if (points := _points(cell))]
    if not curves:
        return ""
    ranked = sorted(curves, key=lambda item: -(item[0].mean or 0.0))
    last = max(epoch for _, points in curves for epoch, _, _, _ in points)
    low = min(below for _, points in curves for _, _, below, _ in points)
    high = max(above for _, points in curves for _, _, _, above in points)
    span = max(high - low, 1e-3)

    def place(epoch: float, value: float) -> str:
        x = _LEFT + (_WIDTH - _LEFT - 10) * (epoch - 1) / max(last - 1, 1)
        y = 10 + (_HEIGHT - _BOTTOM - 10) * (high - value) / span
        return f"{x:.1f},{y:.1f}"

    lines: list[str] = []
    legend: list[str] = []
    for rank, (cell, points) in reversed(list(enumerate(ranked))):
        colour = _COLOURS[rank] if rank < len(_COLOURS) else _GREY
        upper = [place(epoch, above) for epoch, _, _, above in points]
        lower = [place(epoch, below) for epoch, _, below, _ in reversed(points)]
        middle = " ".join(place(epoch, mean) for epoch, mean, _, _ in points)
        lines.append(
            f'<g><title>{escape(cell.cell.title)}</title><polygon points="{" ".join(upper + lower)}" fill="{colour}" '
            f'opacity=".15"/><polyline points="{middle}" fill="none" stroke="{colour}" stroke-width="2"/></g>'
        )
        if rank < len(_COLOURS):
            legend.insert(0, f'<span style="color:{colour}">&#9632;</span> {escape(cell.cell.title)}')
    ticks = [
        *(_text(2, place(1, low + span * part), f"{low + span * part:.3f}") for part in (0, 0.5, 1)),
        *(_text(None, place(epoch, low), str(epoch), below=18) for epoch in sorted({1, (1 + last) // 2, last})),
    ]
    return (
        f"<h2>{escape(recipe)}</h2><p>Validation mAP by epoch, mean over the seeds and one standard deviation."
        f'<br>{"<br>".join(legend)}</p><svg viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" role="img" '
        'font-size="12" fill="currentColor" aria-label="validation mAP by epoch">'
        f"{''.join(ticks)}{''.join(lines)}</svg>"
    )


def _text(x: float | None, place: str, text: str, *, below: float = 4) -> str:
    across, down = map(float, place.split(","))
    return f'<text x="{across - 4 if x is None else x:.1f}" y="{down + below:.1f}">{escape(text)}</text>'


def _points(cell: CellResult) -> list[tuple[int, float, float, float]]:
    """Epoch, mean over the seeds, and one standard deviation below and above it, for epochs that all seeds have."""
    points = []
    for epoch in sorted(set.intersection(*(set(run.curve) for run in cell.runs))):
        maps = [run.curve[epoch] for run in cell.runs]
        mean, sd = fmean(maps), stdev(maps) if len(maps) > 1 else 0.0
        points.append((epoch, mean, max(mean - sd, 0), min(mean + sd, 1)))
    return points
