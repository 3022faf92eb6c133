"""The evaluators of other code bases, spelled out step by step from what their code does (docs/evaluation.md cites it).

Each returns the AP of every label, None for a label that is not in the mean. Equal scores rank in file order, except
where said otherwise.
"""

import heapq
from collections import defaultdict
from collections.abc import Collection, Iterable

from tests.eval.brute_force import Found, Truth, area_under_curve, iou

Key = tuple[str, int]
Scores = dict[int, float | None]


def key_of(row: Found | Truth) -> Key:
    return row.video, row.timestamp


def written(value: float, decimals: int) -> float:
    return float(f"{value:.{decimals}f}")


def rounded(row: Found, decimals: int) -> Found:
    x1, y1, x2, y2 = (written(value, decimals) for value in row.box)
    return Found(row.video, row.timestamp, (x1, y1, x2, y2), row.label, written(row.score, decimals))


def has_area(row: Found) -> bool:
    return row.box[0] < row.box[2] and row.box[1] < row.box[3]


def heap_keeps(rows: Iterable[Found], capacity: int) -> list[Found]:
    """The rows of one key frame that a bounded heap keeps, best first."""
    heap: list[tuple[float, int, float, float, float, float]] = []
    found: Found | None = None
    for found in rows:
        x1, y1, x2, y2 = found.box
        item = (found.score, found.label, y1, x1, y2, x2)
        if capacity < 1 or len(heap) < capacity:
            heapq.heappush(heap, item)
        elif found.score > heap[0][0]:
            heapq.heapreplace(heap, item)
    assert found is not None
    return [
        Found(found.video, found.timestamp, (x1, y1, x2, y2), label, score)
        for score, label, y1, x1, y2, x2 in sorted(heap, key=lambda item: -item[0])
    ]


def claims(rows: list[Found], boxes: list[Truth]) -> list[tuple[float, bool]]:
    """Score and whether right, of rows of one key frame and label; the first row that finds a box has it."""
    taken: set[int] = set()
    result = []
    for row in rows:
        best = max(range(len(boxes)), key=lambda index: iou(row.box, boxes[index].box), default=None)
        right = best is not None and iou(row.box, boxes[best].box) >= 0.5 and best not in taken
        if right and best is not None:
            taken.add(best)
        result.append((row.score, right))
    return result


def ap(results: list[tuple[float, bool]], num_truth: int) -> float:
    ranked = sorted(results, key=lambda item: -item[0])
    return area_under_curve([right for _, right in ranked], num_truth)


def by_key(rows: Iterable[Found]) -> dict[Key, list[Found]]:
    result: dict[Key, list[Found]] = defaultdict(list)
    for row in rows:
        result[key_of(row)].append(row)
    return result


def pascal(frames: dict[Key, list[Found]], truth: list[Truth], labels: list[int], order: list[Found]) -> Scores:
    """The evaluator that ava, published and pyslowfast share.

    frames: rows of each key frame in the order in which they may claim boxes. order: the order of equal scores.
    """
    place = {id(row): position for position, row in enumerate(order)}
    scores: Scores = {}
    for label in labels:
        boxes = [row for row in truth if row.label == label]
        results: list[tuple[int, tuple[float, bool]]] = []
        for key, rows in frames.items():
            mine = [row for row in rows if row.label == label and has_area(row)]
            right = claims(mine, [box for box in boxes if key_of(box) == key])
            results += zip((place[id(row)] for row in mine), right, strict=True)
        scores[label] = ap([result for _, result in sorted(results)], len(boxes)) if boxes else None
    return scores


def ava(found: list[Found], truth: list[Truth], labels: list[int], excluded: Collection[Key], capacity: int) -> Scores:
    """Equal scores rank in the order of key frames and of the heap."""
    frames = by_key(row for row in found if row.label in labels)
    kept = {key: heap_keeps(rows, capacity) for key, rows in frames.items() if key not in excluded}
    order = [row for rows in kept.values() for row in rows]
    return pascal(kept, [row for row in truth if key_of(row) not in excluded], labels, order)


def published(
    found: list[Found], truth: list[Truth], labels: list[int], excluded: Collection[Key], capacity: int
) -> Scores:
    return ava([rounded(row, 3) for row in found], truth, labels, (), capacity)


def pyslowfast(found: list[Found], truth: list[Truth], labels: list[int], excluded: Collection[Key]) -> Scores:
    frames = by_key(row for row in found if row.label in labels and key_of(row) not in excluded)
    return pascal(frames, [row for row in truth if key_of(row) not in excluded], labels, found)


def mmaction2(found: list[Found], truth: list[Truth], labels: list[int], excluded: Collection[Key]) -> Scores:
    known = [row for row in truth if row.label in labels]
    frames = {key_of(row) for row in known} - set(excluded)
    order, rows = {}, []
    for position, row in enumerate(found):
        if row.label in labels and row.score > 0.002 and key_of(row) in frames:
            rows.append(rounded(row, 4))
            order[id(rows[-1])] = position
    scores: Scores = dict.fromkeys(labels)
    for label in labels:
        boxes = [row for row in known if row.label == label]
        mine = sorted((row for row in rows if row.label == label), key=lambda row: -row.score)
        if not mine or not boxes:
            continue
        ranked: list[tuple[int, tuple[float, bool]]] = []
        for key in frames:
            here = [row for row in mine if key_of(row) == key]
            results = claims(here, [box for box in boxes if key_of(box) == key])
            ranked += zip((order[id(row)] for row in here), results, strict=True)
        scores[label] = ap([result for _, result in sorted(ranked)], len(boxes))
    return scores
