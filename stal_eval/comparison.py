"""One result against another on the same ground truth: differences with confidence intervals over videos."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stal_data.errors import ConflictError, InputError
from stal_eval.bootstrap import draw_weights, resampled_average_precision
from stal_eval.capacities import NO_LIMIT
from stal_eval.stored import Stored

_FEW_VIDEOS = 20
_FREE = ("name", "capacities", "changed_fields")  # protocol fields that say nothing about how one capacity is scored


@dataclass(frozen=True, kw_only=True)
class Delta:
    """b - a and its interval; all are fractions in [0,1]. None: not in both means.

    low, high: quantiles of the difference over the resamples. above: share of resamples in which b is better.
    """

    a: float | None
    b: float | None
    delta: float | None
    low: float | None
    high: float | None
    above: float | None

    @property
    def is_clear(self) -> bool:
        """Tell whether the interval leaves out 0."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)

    def plain(self) -> dict[str, float | bool | None]:
        return vars(self) | {"is_clear": self.is_clear}


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """mean_ap: of the mean over classes. per_class: by class name. ground_truth, videos: of each class."""

    mean_ap: Delta
    per_class: dict[str, Delta]
    ground_truth: dict[str, int]
    videos: dict[str, int]
    capacities: tuple[int, int]
    num_videos: int
    replicates: int
    seed: int
    confidence: float
    warnings: tuple[str, ...]

    def plain(self) -> dict[str, Any]:
        """Return everything as plain values, the content of the JSON file."""
        return {
            "format": 1,
            "mAP": self.mean_ap.plain(),
            "per_class": {
                name: delta.plain() | {"ground_truth": self.ground_truth[name], "videos": self.videos[name]}
                for name, delta in self.per_class.items()
            },
            "capacities": {"a": self.capacities[0], "b": self.capacities[1]},
            "bootstrap": {
                "unit": "video",
                "videos": self.num_videos,
                "replicates": self.replicates,
                "seed": self.seed,
                "confidence": self.confidence,
            },
            "warnings": list(self.warnings),
        }


def compare(
    a: Stored,
    b: Stored,
    *,
    capacity: int | None = None,
    replicates: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Comparison:
    """Return b - a. Both must have the same ground truth and protocol.

    capacity: for both; by default each has the one that it reports. The videos are resampled with replacement, the same
    ones for a and b, `replicates` times; an interval holds the middle `confidence` of the differences.
    """
    if replicates < 1:
        raise InputError(f"replicates is {replicates}, but must be at least 1; 1000 give steady intervals.")
    if not 0 < confidence < 1:
        raise InputError(f"confidence is {confidence}, but must be between 0 and 1, such as 0.95.")
    videos = tuple(sorted({*a.videos, *b.videos}))
    a, b = _on_videos(a, videos), _on_videos(b, videos)
    _check(a, b)
    capacities = (a.capacity, b.capacity) if capacity is None else (capacity, capacity)
    weight_VR = np.hstack([np.ones((len(videos), 1), np.int32), draw_weights(len(videos), replicates, seed)])
    sides = [_average_precision(side, kept, weight_VR) for side, kept in zip((a, b), capacities, strict=True)]
    return Comparison(
        mean_ap=_delta(_mean(sides[0]), _mean(sides[1]), confidence),
        per_class={name: _delta(sides[0][label], sides[1][label], confidence) for label, name in enumerate(a.classes)},
        ground_truth=dict(zip(a.classes, a.truth_VK.sum(axis=0).tolist(), strict=True)),
        videos=dict(zip(a.classes, (a.truth_VK > 0).sum(axis=0).tolist(), strict=True)),
        capacities=capacities,
        num_videos=len(videos),
        replicates=replicates,
        seed=seed,
        confidence=confidence,
        warnings=_warnings(len(videos)),
    )


def compare_means(
    a: Sequence[Stored], b: Sequence[Stored], *, replicates: int = 1000, confidence: float = 0.95, seed: int = 0
) -> Delta:
    """Return the mean mAP of the results b minus that of the results a, such as those of two heads over several seeds.

    Each has the capacity that it reports. A resample draws the same videos for all of them, so the interval tells of
    other videos, not of other seeds. The rest is as in `compare`.
    """
    videos = tuple(sorted({video for item in (*a, *b) for video in item.videos}))
    weight_VR = np.hstack([np.ones((len(videos), 1), np.int32), draw_weights(len(videos), replicates, seed)])
    for item in (*a, *b):
        _check(a[0], item)

    def mean(results: Sequence[Stored]) -> NDArray[np.float64]:
        found = [_average_precision(_on_videos(item, videos), item.capacity, weight_VR) for item in results]
        return np.asarray(np.mean([_mean(ap_KR) for ap_KR in found], axis=0))

    return _delta(mean(a), mean(b), confidence)


def _on_videos(stored: Stored, videos: tuple[str, ...]) -> Stored:
    number = {video: position for position, video in enumerate(videos)}
    position_V = np.array([number[video] for video in stored.videos], np.int32)
    truth_VK = np.zeros((len(videos), len(stored.classes)), np.int64)
    truth_VK[position_V] = stored.truth_VK
    return replace(stored, videos=videos, truth_VK=truth_VK, video_N=position_V[stored.video_N])


def _check(a: Stored, b: Stored) -> None:
    if a.classes != b.classes or a.ground_truth != b.ground_truth:
        raise ConflictError(
            f"The results were scored on different ground truth ({a.split} and {b.split}): a difference would say "
            "nothing. Score both on the same file, with the same label map and exclusions."
        )
    for name, value in a.protocol.items():
        if name not in _FREE and b.protocol.get(name) != value:
            raise ConflictError(
                f"The results were scored by different rules: {name} is {value} and {b.protocol.get(name)}. Score both "
                "with the same --protocol."
            )


def _average_precision(side: Stored, capacity: int, weight_VR: NDArray[np.int32]) -> NDArray[np.float64]:
    """Return AP [K, 1 + R], the real one first; NaN for a class that is not in the mean."""
    by_score = side.protocol["match_order"] == "score"
    if capacity != side.capacity and not (by_score and side.protocol["tie_order"] == "file"):
        raise InputError(
            f"capacity is {capacity}, but under the protocol {side.protocol['name']} a result can be compared only at "
            f"the capacity that it reports, {side.capacity or 'no limit'}: leave it out"
            + (f", or score both with --capacities {capacity} first." if by_score else ".")
        )
    kept_N = ~side.void_N
    if capacity != NO_LIMIT:
        kept_N &= side.rank_N < capacity
    before = np.concatenate([[0], np.cumsum(kept_N)])
    ap_KR = resampled_average_precision(
        side.video_N[kept_N], side.hit_N[kept_N], before[side.class_offsets], side.truth_VK, weight_VR
    )
    ap_KR[~side.in_mean_K] = np.nan
    return ap_KR


def _mean(ap_KR: NDArray[np.float64]) -> NDArray[np.float64]:
    counts = (~np.isnan(ap_KR)).sum(axis=0)
    return np.where(counts > 0, np.nansum(ap_KR, axis=0) / np.maximum(counts, 1), np.nan)


def _delta(a_R: NDArray[np.float64], b_R: NDArray[np.float64], confidence: float) -> Delta:
    """The first of R figures is the real one, the others are of resamples; NaN where there is none."""
    difference = (b_R - a_R)[1:]
    difference = difference[~np.isnan(difference)]
    low = high = above = None
    if len(difference) > 0:
        low, high = np.quantile(difference, [(1 - confidence) / 2, (1 + confidence) / 2]).tolist()
        above = float((difference > 0).mean())
    a, b = (None if np.isnan(side[0]) else float(side[0]) for side in (a_R, b_R))
    delta = None if a is None or b is None else b - a
    return Delta(a=a, b=b, delta=delta, low=low, high=high, above=above)


def _warnings(num_videos: int) -> tuple[str, ...]:
    if num_videos >= _FEW_VIDEOS:
        return ()
    return (f"The intervals rest on {num_videos} videos; below {_FEW_VIDEOS} they tend to be too narrow.",)
