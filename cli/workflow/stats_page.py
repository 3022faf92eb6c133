"""The counts of `dataset stats` as sections, which the terminal and the page show alike, and the page."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any, NamedTuple

from cli.workflow.html import page_head
from stal_data.boxes import BOX_SIZES
from stal_data.split_counts import PairCount, SplitCounts

_MOST_PAIRS = 30
_BAR_WIDTH = 80
_TOTALS = ("videos", "key_frames", "without_people", "excluded", "boxes", "actions")


class Section(NamedTuple):
    """rows: a name, and a count for each split."""

    title: str
    note: str
    rows: Sequence[tuple[str, Sequence[int]]]


def sections(splits: Sequence[SplitCounts]) -> list[Section]:
    """Return all sections; of the pairs of classes the 30 that occur most."""
    totals = [(name.replace("_", " "), [getattr(split.counts, name) for split in splits]) for name in _TOTALS]
    classes = list(splits[0].counts.per_class)
    numbers = sorted({number for split in splits for number in split.people})
    return [
        Section("Splits", "Excluded key frames are counted nowhere else.", totals),
        Section("Classes", "People who show the class.", _rows(classes, [split.counts.per_class for split in splits])),
        Section("People a key frame", "Key frames with so many people.", _rows(numbers, [s.people for s in splits])),
        Section(
            "Box sizes",
            "Boxes by their share of the frame: medium from 32x32, large from 96x96 pixels of a 640x480 frame.",
            _rows(BOX_SIZES, [split.sizes for split in splits]),
        ),
        Section("Classes of one person", "People who show both.", _pairs([split.one_person for split in splits])),
        Section(
            "Classes of two people",
            "Key frames in which one person shows the first and another the second.",
            _pairs([split.two_people for split in splits]),
        ),
    ]


def page_text(name: str, splits: Sequence[SplitCounts]) -> str:
    """Return the page. name: of the data set. Each column's bars are relative to its largest count."""
    head = "".join(f"<th>{escape(split.counts.split)}</th>" for split in splits)
    parts = [page_head(f"Data set {name}"), f"<h1>Data set {escape(name)}</h1>"]
    for section in sections(splits):
        largest = [max(column, default=0) for column in zip(*(counts for _, counts in section.rows), strict=True)]
        # The totals are of different things, so their bars would say nothing.
        bars = [0 if section.title == "Splits" else _BAR_WIDTH / max(value, 1) for value in largest]
        lines = "".join(
            f"<tr><td>{escape(title)}</td><td></td>{''.join(map(_cell, counts, bars))}</tr>"
            for title, counts in section.rows
        )
        parts.append(
            f'<h2>{escape(section.title)}</h2><p>{escape(section.note)}</p><div class="wide"><table><thead><tr>'
            f"<th></th><th></th>{head}</tr></thead><tbody>{lines}</tbody></table></div>"
            if section.rows
            else f"<h2>{escape(section.title)}</h2><p>None.</p>"
        )
    return "\n".join([*parts, "</body></html>\n"])


def _cell(count: int, scale: float) -> str:
    bar = f'<rect width="{count * scale:.1f}" height="10" fill="currentColor" opacity=".4"/>'
    return f"<td>{count}{f' <svg width={_BAR_WIDTH} height=10 aria-hidden=true>{bar}</svg>' if scale else ''}</td>"


def _rows(keys: Iterable[object], columns: Sequence[Mapping[Any, int]]) -> list[tuple[str, list[int]]]:
    return [(str(key), [column.get(key, 0) for column in columns]) for key in keys]


def _pairs(columns: Sequence[Iterable[PairCount]]) -> list[tuple[str, list[int]]]:
    counted = [{f"{one} + {other}": count for one, other, count in column} for column in columns]
    total: Counter[str] = Counter()
    for column in counted:
        total.update(column)
    return _rows([name for name, _ in total.most_common(_MOST_PAIRS)], counted)
