"""Tables of the figures that not every result has, for the page and for the terminal."""

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any, NamedTuple

from stal_eval.report.wording import count, points

_MOST_FREQUENT = 20
_NARROW = 4  # so few columns do not spread over the page


class OptionalTable(NamedTuple):
    """The first cell of each row names it. A wide table, with a column for each class, is for the page only."""

    title: str
    meaning: str
    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    wide: bool = False


def optional_tables(metrics: Mapping[str, Any]) -> Iterator[OptionalTable]:
    """Yield the tables of the figures that were requested; none where none were."""
    if "by_iou" in metrics:
        yield OptionalTable("mAP by IoU", "At the reported capacity.", ("IoU", "mAP"), _ious(metrics["by_iou"]))
    for field, title, meaning in (
        ("by_label_type", "mAP by label type", "Means over the classes of each type in the label map."),
        ("by_box_size", "mAP by box size", "Large boxes cover at least 3 % of the frame, small ones less than 1/300."),
    ):
        groups = metrics.get(field, {}).items()
        rows = [(name, points(g["mAP"]), count(g["classes"]), count(g["ground_truth"])) for name, g in groups]
        if rows:
            yield OptionalTable(title, meaning, ("", "mAP", "classes", "boxes"), rows)
    if "confusion" in metrics:
        yield from _confusion(metrics["confusion"])
    if "video_mAP" in metrics:
        found = metrics["video_mAP"]
        meaning = (
            f"By the rules of {found['protocol']['name']}: {count(found['ground_truth_tubes'])} tubes of the ground "
            f"truth, {count(found['prediction_tubes'])} of the predictions. Boxes of a person up to "
            f"{found['max_gap_s']:g} s apart are one tube."
        )
        yield OptionalTable("video-mAP of tubes", meaning, ("IoU", "video-mAP"), _ious(found))
    if "segment_f1" in metrics:
        found = metrics["segment_f1"]
        heads = (f"F1@{100 * overlap:g}" for overlap in found["overlaps"])
        rows = [
            (name, *map(points, f["f1"]), count(f["ground_truth"]), count(f["predictions"]))
            for name, f in (("all actions", found["overall"]), *found["per_action"].items())
        ]
        meaning = "A predicted segment is right where its IoU in time with an annotated one reaches 10, 25 or 50 %."
        yield OptionalTable("Segment-F1", meaning, ("action", *heads, "truth", "predictions"), rows)


def sections(metrics: Mapping[str, Any]) -> str:
    """Return the tables as sections of the page."""
    return "".join(
        f"\n<section>\n<h2>{shown.title}</h2>\n<p>{escape(shown.meaning)}</p>\n{_html(shown)}\n</section>"
        for shown in optional_tables(metrics)
    )


def _ious(by_iou: Mapping[str, Any]) -> list[tuple[str, str]]:
    rows = [(f"{iou:g}", points(ap)) for iou, ap in zip(by_iou["ious"], by_iou["mAP"], strict=True)]
    mean = by_iou["mAP_50_95"]
    return rows if mean is None else [*rows, ("mean of 0.5 to 0.95", points(mean))]


def _confusion(confusion: Mapping[str, Any]) -> Iterator[OptionalTable]:
    scored = [(name, other, number) for name, row in confusion.items() for other, number in row["best_scored"].items()]
    wrong = sorted((item for item in scored if item[0] != item[1]), key=lambda item: -item[2])
    rows = [(name, other, count(number)) for name, other, number in wrong[:_MOST_FREQUENT]]
    meaning = "Another class, which the person does not perform, scores best on a ground-truth box."
    yield OptionalTable("Most frequent confusions", meaning, ("annotated", "scores best", "boxes"), rows)
    numbers = {name: str(number) for number, name in enumerate(confusion, 1)}
    matrix = [
        (
            f"{numbers[name]} {name}",
            *(str(row["best_scored"].get(other, "")) for other in numbers),
            str(row["no_row"] or ""),
        )
        for name, row in confusion.items()
        if row["best_scored"] or row["no_row"]
    ]
    meaning = "Boxes of each annotated class by the class that scores best on them; columns are numbered as rows."
    yield OptionalTable("Confusion between classes", meaning, ("", *numbers.values(), "none"), matrix, wide=True)


def _html(shown: OptionalTable) -> str:
    head = "".join(f'<th scope="col">{escape(text)}</th>' for text in shown.heads)
    body = "".join(
        f'<tr><th scope="row">{escape(name)}</th>{"".join(f"<td>{escape(cell)}</td>" for cell in cells)}</tr>'
        for name, *cells in shown.rows
    )
    content = (
        f'<div class="wide"><table class="inputs"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
    )
    return content if len(shown.heads) > _NARROW else f'<div class="frames">{content}</div>'
