"""The definition of capacity-swept mAP, spelled out without any shortcut: the slow path the sweep is compared with."""

from collections import defaultdict
from dataclasses import dataclass

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Found:
    video: str
    timestamp: int
    box: Box
    label: int
    score: float


@dataclass(frozen=True)
class Truth:
    video: str
    timestamp: int
    box: Box
    label: int


def iou(a: Box, b: Box) -> float:
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    overlap = width * height
    area_a, area_b = (a[2] - a[0]) * (a[3] - a[1]), (b[2] - b[0]) * (b[3] - b[1])
    return overlap / (area_a + area_b - overlap)


def average_precision(
    predictions: list[Found], ground_truth: list[Truth], labels: list[int], capacity: int, min_iou: float = 0.5
) -> dict[int, float | None]:
    """AP of each label at one capacity (0: no limit); equal scores keep the order of `predictions`."""
    by_key: dict[tuple[str, int], list[Found]] = defaultdict(list)
    for row in predictions:
        if row.label in labels:
            by_key[row.video, row.timestamp].append(row)
    kept: set[int] = set()
    for rows in by_key.values():
        best = sorted(rows, key=lambda row: -row.score)
        kept.update(id(row) for row in (best[:capacity] if capacity else best))
    result: dict[int, float | None] = {}
    for label in labels:
        truth = [row for row in ground_truth if row.label == label]
        if not truth:
            result[label] = None
            continue
        ranked = sorted((row for row in predictions if row.label == label and id(row) in kept), key=lambda r: -r.score)
        result[label] = area_under_curve(mark_hits(ranked, truth, min_iou), len(truth))
    return result


def mark_hits(ranked: list[Found], truth: list[Truth], min_iou: float) -> list[bool]:
    """For rows of one class, best first: whether each is the first to find its box."""
    taken: set[int] = set()
    hits = []
    for row in ranked:
        here = [box for box in truth if (box.video, box.timestamp) == (row.video, row.timestamp)]
        target = max(here, key=lambda box: iou(row.box, box.box), default=None)
        hit = target is not None and iou(row.box, target.box) >= min_iou and id(target) not in taken
        if hit:
            taken.add(id(target))
        hits.append(hit)
    return hits


def area_under_curve(hits: list[bool], num_truth: int) -> float:
    precision, recall, found = [], [], 0
    for position, hit in enumerate(hits, start=1):
        found += hit
        precision.append(found / position)
        recall.append(found / num_truth)
    area, last_recall = 0.0, 0.0
    for position in range(len(hits)):
        area += (recall[position] - last_recall) * max(precision[position:])
        last_recall = recall[position]
    return area
