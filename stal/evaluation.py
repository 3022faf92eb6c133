"""Scoring predictions against ground truth."""

from collections.abc import Collection, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import stal_eval
from cache.split_store import PublishedSplit
from stal.scoring import Predictions
from stal_data.errors import InputError
from stal_data.keyframes import KeyFrame
from stal_data.labels import LabelMap

if TYPE_CHECKING:
    import pandas as pd


def evaluate(
    predictions: "Predictions | pd.DataFrame | Path | str",
    ground_truth: "PublishedSplit | pd.DataFrame | Path | str",
    *,
    label_map: LabelMap | Path | str | None = None,
    exclusions: Collection[KeyFrame] | Path | str | None = None,
    protocol: str = "stal",
    capacities: str | Iterable[int] | None = None,
    capacity_from: Path | str | None = None,
    requested: stal_eval.Requested | None = None,
) -> stal_eval.Evaluation:
    """Return mAP at IoU 0.5 at every capacity, as `stal-cli eval` computes it (docs/evaluation.md).

    predictions: of `predict`, `Head.score` or a head of your own; or rows video,timestamp,x1,y1,x2,y2,label,score as a
        DataFrame with these columns, or as a CSV file without a header. Timestamps are seconds, boxes lie in [0,1].
    ground_truth: `Store.split`, whose exclusions and label map are then the defaults; or rows without a score.
    label_map: the classes; default: those of the split, else those of the predictions.
    exclusions: key frames to leave out, or a file of video,timestamp.
    protocol: stal, published, ava, pyslowfast or mmaction2.
    capacities: best-scored rows kept of each key frame, as numbers (0: no limit) or `50:2200`; default: the protocol's.
    capacity_from: another metrics.json, whose capacity is reported instead of the best on this split.
    requested: further figures, which the result then has in `optional`.
    The result has `mean_ap`, `mean_ap_at_50` and `best`, all in [0,1], `per_class()` and `metrics()`.
    Raises StalError for rows that break a rule, naming the first, and for label maps that are missing or differ.
    """
    ours = predictions.label_map if isinstance(predictions, Predictions) else None
    theirs = ground_truth.label_map if isinstance(ground_truth, PublishedSplit) else None
    labels = label_map or theirs or ours
    if labels is None:
        raise InputError("label_map is None, and neither predictions nor ground_truth brings one; give it as a file.")
    if ours is not None and theirs is not None and ours != theirs:
        raise InputError(f"predictions are of {ours} and ground_truth of {theirs}; both must have one label map.")
    split = ground_truth if isinstance(ground_truth, PublishedSplit) else None
    if split is not None and exclusions is None:
        exclusions = split.exclusions
    return stal_eval.evaluate(
        predictions.to_frame() if isinstance(predictions, Predictions) else predictions,
        _rows_of(ground_truth) if isinstance(ground_truth, PublishedSplit) else ground_truth,
        labels,
        exclusions=exclusions,
        protocol=protocol,
        capacities=capacities,
        capacity_from=capacity_from,
        requested=requested,
        split=None if split is None else split.split,
        dataset=None if split is None else split.dataset,
    )


def _rows_of(split: PublishedSplit) -> "pd.DataFrame":
    import pandas as pd

    if not split.annotated:
        raise InputError(
            f"ground_truth is {split.dataset}/{split.split}, which has no annotations; give a split that has."
        )
    columns = ["video", "timestamp", "x1", "y1", "x2", "y2", "label", "person"]
    rows = [
        (item.key.video, item.key.time_ms / 1000, *box, label_id, person)
        for item in split.key_frames
        for box, labels, person in zip(item.boxes_N4.tolist(), item.labels, item.persons, strict=True)
        for label_id in sorted(labels)
    ]
    return pd.DataFrame(rows, columns=columns)
