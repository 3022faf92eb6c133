"""mAP at one capacity, written the plain way: cut every key frame, match every class of it, sort, sum. Run it once a
capacity and a sweep is done; the one-pass sweep is measured against this."""

from collections import defaultdict

import numpy as np
import pandas as pd
from numpy.typing import NDArray

MIN_IOU = 0.5
BOX = ["x1", "y1", "x2", "y2"]


def mean_ap(predictions: pd.DataFrame, ground_truth: pd.DataFrame, capacity: int) -> float:
    """Both frames: video, timestamp, x1, y1, x2, y2, label; predictions have a score too. Equal scores: file order."""
    truth: dict[tuple[str, int], dict[int, NDArray[np.float64]]] = {}
    for key, rows in ground_truth.groupby(["video", "timestamp"], sort=False):
        truth[key] = {label: part[BOX].to_numpy() for label, part in rows.groupby("label", sort=False)}
    scores: dict[int, list[NDArray[np.float64]]] = defaultdict(list)
    hits: dict[int, list[NDArray[np.bool_]]] = defaultdict(list)
    positions: dict[int, list[NDArray[np.int64]]] = defaultdict(list)
    for key, rows in predictions.groupby(["video", "timestamp"], sort=False):
        score, label = rows["score"].to_numpy(), rows["label"].to_numpy()
        boxes, position = rows[BOX].to_numpy(), rows.index.to_numpy()
        kept = np.argsort(-score, kind="stable")[:capacity]
        for wanted in np.unique(label[kept]):
            chosen = kept[label[kept] == wanted]
            scores[wanted].append(score[chosen])
            positions[wanted].append(position[chosen])
            hits[wanted].append(_match(boxes[chosen], truth.get(key, {}).get(wanted)))
    num_truth = ground_truth["label"].value_counts()
    return float(np.mean([_average_precision(scores[i], positions[i], hits[i], num_truth[i]) for i in num_truth.index]))


def _match(boxes: NDArray[np.float64], truth: NDArray[np.float64] | None) -> NDArray[np.bool_]:
    hits = np.zeros(len(boxes), np.bool_)
    if truth is None:
        return hits
    low = np.maximum(boxes[:, None, :2], truth[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], truth[None, :, 2:])
    overlap = np.prod(np.maximum(high - low, 0), axis=2)
    areas = [np.prod(some[:, 2:] - some[:, :2], axis=1) for some in (boxes, truth)]
    iou = overlap / (areas[0][:, None] + areas[1][None] - overlap)
    taken = np.zeros(len(truth), np.bool_)
    for row, target in enumerate(iou.argmax(axis=1)):
        if iou[row, target] >= MIN_IOU and not taken[target]:
            taken[target] = hits[row] = True
    return hits


def _average_precision(
    scores: list[NDArray[np.float64]], positions: list[NDArray[np.int64]], hits: list[NDArray[np.bool_]], total: int
) -> float:
    if not scores:
        return 0.0
    order = np.lexsort((np.concatenate(positions), -np.concatenate(scores)))
    hit = np.concatenate(hits)[order]
    found = np.cumsum(hit)
    precision = np.maximum.accumulate((found / np.arange(1, len(hit) + 1))[::-1])[::-1]
    return float(precision[hit].sum() / total)
