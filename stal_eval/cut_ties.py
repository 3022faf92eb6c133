"""Which of equal scores a heap keeps that holds the best rows of a key frame read so far, and in which order they leave
it, as in AVA's evaluator.

The heap is filled up to the capacity; then a row replaces the smallest (score, label id, y1, x1, y2, x2) when its score
is above the smallest score. What is left is a head of one fixed order, so that all capacities share it: with
c rows kept, those of the lowest score s are the largest by (label id, y1, x1, y2, x2) among the rows of score s that
are within the first c rows, in file order, of scores s and above.
"""

import heapq

import numpy as np
from numpy.typing import NDArray

from stal_eval.compiled import compiled


@compiled
def heap_ranks(
    by_key_N: NDArray[np.int64],
    score_N: NDArray[np.float64],
    class_N: NDArray[np.int32],
    boxes_N4: NDArray[np.float64],
    key_offsets: NDArray[np.int64],
) -> NDArray[np.int64]:
    """Reorder row numbers within equal scores of a key frame as the heap keeps them.

    by_key_N: row numbers by key frame, then score descending, then file order. key_offsets: where each key frame
    starts in it, and the end.
    """
    result = by_key_N.copy()
    for key in range(key_offsets.shape[0] - 1):
        start, stop = key_offsets[key], key_offsets[key + 1]
        first = start
        tied = False
        for position in range(start + 1, stop):
            if score_N[by_key_N[position]] == score_N[by_key_N[position - 1]]:
                tied = True
        if not tied:
            continue
        # file_place: position of each row among the key frame's rows in file order.
        file_place = np.empty(stop - start, np.int64)
        file_place[np.argsort(by_key_N[start:stop])] = np.arange(stop - start)
        better = np.zeros(stop - start + 1, np.int64)  # a Fenwick tree: rows above the current score by file place
        while first < stop:
            last = first + 1
            while last < stop and score_N[by_key_N[last]] == score_N[by_key_N[first]]:
                last += 1
            if last - first > 1:
                pool = [(0.0, 0.0, 0.0, 0.0, 0.0, np.int64(0)) for _ in range(0)]
                arrived = first
                for filled in range(first, last):
                    # A capacity of filled + 1 - start rows: what is within as many rows of the file has arrived.
                    while arrived < last:
                        above = 0
                        node = file_place[arrived - start]
                        while node > 0:
                            above += better[node]
                            node -= node & -node
                        if above + arrived - first > filled - start:
                            break
                        row = by_key_N[arrived]
                        box = boxes_N4[row]
                        heapq.heappush(pool, (-float(class_N[row]), -box[1], -box[0], -box[3], -box[2], row))
                        arrived += 1
                    result[filled] = heapq.heappop(pool)[5]
            for position in range(first, last):
                node = file_place[position - start] + 1
                while node <= stop - start:
                    better[node] += 1
                    node += node & -node
            first = last
    return result


@compiled
def heap_arrays(
    by_key_N: NDArray[np.int64],
    score_N: NDArray[np.float64],
    class_N: NDArray[np.int32],
    boxes_N4: NDArray[np.float64],
    key_offsets: NDArray[np.int64],
    capacity: int,
) -> NDArray[np.int64]:
    """Return the row numbers that each key frame's heap of `capacity` rows holds, in the order of its array.

    by_key_N: row numbers by key frame, then in file order. key_offsets: where each key frame starts in it, and the end.
    The array is that of Python's `heapq`: its order decides which of equal scores matches a box.
    """
    kept = np.empty(by_key_N.shape[0], np.int64)
    total = 0
    for key in range(key_offsets.shape[0] - 1):
        heap = kept[total:]
        size = 0
        for position in range(key_offsets[key], key_offsets[key + 1]):
            row = by_key_N[position]
            if size < capacity:
                place = size
                size += 1
            elif score_N[row] > score_N[heap[0]]:
                # As heapq.heapreplace: the hole goes down to a leaf along the smaller children, then the row rises.
                place, child = 0, 1
                while child < size:
                    other = child + 1
                    if other < size and not _is_less(heap[child], heap[other], score_N, class_N, boxes_N4):
                        child = other
                    heap[place] = heap[child]
                    place = child
                    child = 2 * place + 1
            else:
                continue
            while place > 0:
                parent = (place - 1) >> 1
                if not _is_less(row, heap[parent], score_N, class_N, boxes_N4):
                    break
                heap[place] = heap[parent]
                place = parent
            heap[place] = row
        total += size
    return kept[:total]


@compiled
def _is_less(
    a: int, b: int, score_N: NDArray[np.float64], class_N: NDArray[np.int32], boxes_N4: NDArray[np.float64]
) -> bool:
    if score_N[a] != score_N[b]:
        return bool(score_N[a] < score_N[b])
    if class_N[a] != class_N[b]:
        return bool(class_N[a] < class_N[b])
    for axis in (1, 0, 3, 2):
        if boxes_N4[a, axis] != boxes_N4[b, axis]:
            return bool(boxes_N4[a, axis] < boxes_N4[b, axis])
    return False
