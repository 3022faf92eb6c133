"""The evaluators of other code bases, spelled out step by step from what their code does (docs/evaluation.md cites it).

Each returns the AP of every label, None for a label that is not in the mean. `rank` takes the scores of a class, key
frames in the order of the file, and returns their order, best first.
"""

import heapq
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from tests.eval.brute_force import Box, Found, Truth, area_under_curve, iou

Rank = Callable[[NDArray[np.floating]], NDArray[np.intp]]
Key = tuple[str, int]
Scores = dict[int, float | None]
Row = TypeVar("Row", Found, Truth)


RANKS: dict[str, Rank] = {
    "argsort": lambda scores: np.argsort(scores)[::-1],
    "reversed_stable": lambda scores: np.argsort(scores, kind="stable")[::-1],
}


def at_random(seed: int) -> Rank:
    """Equal scores in any order, another one at each call."""
    chance = np.random.default_rng(seed)

    def rank(scores: NDArray[np.floating]) -> NDArray[np.intp]:
        shuffled = chance.permutation(len(scores))
        return shuffled[np.argsort(-scores[shuffled], kind="stable")]

    return rank


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


def heap_order(boxes: list[Truth]) -> list[Truth]:
    """Ground truth of one key frame in the order of the heap that it is read into."""
    heap: list[tuple[int, float, float, float, float]] = []
    for box in boxes:
        x1, y1, x2, y2 = box.box
        heapq.heappush(heap, (box.label, y1, x1, y2, x2))
    key = boxes[0].video, boxes[0].timestamp
    return [Truth(*key, (x1, y1, x2, y2), label) for label, y1, x1, y2, x2 in heap]


def iou_float32(a: Box, b: Box) -> float:
    """The clipped sides are float64, all else float32."""
    x1, y1, x2, y2 = np.float32(a)
    u1, v1, u2, v2 = np.float32(b)
    width, height = (
        max(0.0, float(min(*ends) - max(*starts))) for ends, starts in (((x2, u2), (x1, u1)), ((y2, v2), (y1, v1)))
    )
    return width * height / (float((x2 - x1) * (y2 - y1) + (u2 - u1) * (v2 - v1)) - width * height)


def matches(
    rows: list[Found], boxes: list[Truth], overlap: Callable[[Box, Box], float] = iou
) -> list[tuple[float, bool]]:
    """Score and whether right, of rows of one key frame and label; the first row that finds a box has it."""
    taken: set[int] = set()
    result = []
    for row in rows:
        overlaps = [overlap(row.box, box.box) for box in boxes]
        best = max(range(len(boxes)), key=overlaps.__getitem__, default=None)
        right = best is not None and overlaps[best] >= 0.5 and best not in taken
        if right and best is not None:
            taken.add(best)
        result.append((row.score, right))
    return result


def ap(results: list[tuple[float, bool]], num_truth: int, rank: Rank, dtype: type = np.float64) -> float:
    scores = np.array([score for score, _ in results], dtype)
    return area_under_curve([results[place][1] for place in rank(scores).tolist()], num_truth)


def by_key(rows: Iterable[Row]) -> dict[Key, list[Row]]:
    result: dict[Key, list[Row]] = defaultdict(list)
    for row in rows:
        result[key_of(row)].append(row)
    return result


def pascal(frames: dict[Key, list[Found]], truth: dict[Key, list[Truth]], labels: list[int], rank: Rank) -> Scores:
    """The evaluator that ava, published and pyslowfast share.

    frames: rows of each key frame in the order in which they may match boxes.
    """
    scores: Scores = {}
    for label in labels:
        results: list[tuple[float, bool]] = []
        for key, rows in frames.items():
            mine = [row for row in rows if row.label == label and has_area(row)]
            results += matches(mine, [box for box in truth.get(key, []) if box.label == label])
        count = sum(box.label == label for boxes in truth.values() for box in boxes)
        scores[label] = ap(results, count, rank) if count else None
    return scores


def ava(
    found: list[Found],
    truth: list[Truth],
    labels: list[int],
    excluded: Collection[Key],
    rank: Rank,
    capacity: int = 50,
) -> Scores:
    frames = by_key(row for row in found if row.label in labels)
    kept = {key: heap_keeps(rows, capacity) for key, rows in frames.items() if key not in excluded}
    boxes = by_key(row for row in truth if row.label in labels and key_of(row) not in excluded)
    return pascal(kept, {key: heap_order(rows) for key, rows in boxes.items()}, labels, rank)


def published(
    found: list[Found],
    truth: list[Truth],
    labels: list[int],
    excluded: Collection[Key],
    rank: Rank,
    capacity: int = 50,
) -> Scores:
    return ava([rounded(row, 3) for row in found], truth, labels, (), rank, capacity)


def pyslowfast(
    found: list[Found], truth: list[Truth], labels: list[int], excluded: Collection[Key], rank: Rank
) -> Scores:
    frames = by_key(row for row in found if row.label in labels and key_of(row) not in excluded)
    return pascal(frames, by_key(row for row in truth if key_of(row) not in excluded), labels, rank)


def mmaction2(
    found: list[Found], truth: list[Truth], labels: list[int], excluded: Collection[Key], rank: Rank
) -> Scores:
    """Key frames are in the order of the ground truth."""
    known = [row for row in truth if row.label in labels]
    frames = by_key(rounded(row, 4) for row in found if row.label in labels and row.score > 0.002)
    boxes = by_key(known)
    scores: Scores = dict.fromkeys(labels)
    for label in labels:
        results: list[tuple[float, bool]] = []
        for key in boxes:
            rows = sorted((row for row in frames.get(key, []) if row.label == label), key=lambda row: -row.score)
            if key not in excluded:
                results += matches(rows, [box for box in boxes[key] if box.label == label], iou_float32)
        count = sum(row.label == label for row in known)
        if results and count:
            scores[label] = ap(results, count, rank, np.float32)
    return scores
