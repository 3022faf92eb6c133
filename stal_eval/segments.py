"""When each tracked person performs which action: segments of time from the scores in key frames.

T key frames in which a person is seen, C classes with a threshold.
"""

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stal_data.errors import InputError
from stal_eval.columns import Table

COLUMNS = ("video", "person", "action", "start_s", "end_s", "score")
_LONE_STEP_MS = 1000.0
_SIGMAS = 3.0
"""How far the smoothing reaches."""


@dataclass(frozen=True, kw_only=True)
class SegmentRules:
    """smooth_s: standard deviation of the Gaussian that smooths a person's scores over time; 0 = as they are.

    max_gap_s: longest pause within a segment. min_length_s: shorter segments are dropped.
    hold: hysteresis: a segment needs a score of the threshold somewhere, and goes on down to this share of it, (0, 1].
    """

    smooth_s: float = 1.0
    max_gap_s: float = 1.0
    min_length_s: float = 0.0
    hold: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.hold <= 1:
            raise InputError(f"hold is {self.hold:g}, but must be above 0 and at most 1 (1 = no hysteresis).")


@dataclass(frozen=True, kw_only=True)
class Segment:
    """person: id in the video. label_id: as in the label map. score: mean of the smoothed scores in the segment."""

    video: str
    person: int
    label_id: int
    start_ms: float
    end_ms: float
    score: float


def find_segments(table: Table, thresholds: Mapping[int, float], rules: SegmentRules) -> list[Segment]:
    """Return the segments by video, person, start and class (docs/evaluation.md has the rules).

    table: predictions with persons; rows without one have no part in it.
    thresholds: by label id, the lowest smoothed score at which the class counts as performed.
    """
    assert table.person_N is not None  # they are predictions
    assert table.score_N is not None
    if not (table.person_N >= 0).any():
        raise InputError(
            f"{table.source} has no ids of people (column 9), which segments need: run 'stal-cli detect --track', then "
            "'stal-cli predict' on these proposals."
        )
    classes = sorted(thresholds)
    threshold_C = np.array([thresholds[label] for label in classes])
    column_N, has_threshold_N = np.searchsorted(classes, table.label_N), np.isin(table.label_N, classes)
    rows = np.flatnonzero(table.person_N >= 0)
    rows = rows[np.lexsort((table.time_ms_N[rows], table.person_N[rows], table.video_N[rows]))]
    span_N2 = _spans(table)
    found: list[Segment] = []
    new_N = (np.diff(table.video_N[rows]) != 0) | (np.diff(table.person_N[rows]) != 0)
    for part in np.split(rows, np.flatnonzero(new_N) + 1):
        times_T, first_T, place_N = np.unique(table.time_ms_N[part], return_index=True, return_inverse=True)
        score_TC = np.full((len(times_T), len(classes)), -np.inf)
        scored = has_threshold_N[part]
        np.maximum.at(score_TC, (place_N[scored], column_N[part][scored]), table.score_N[part][scored])
        video, person = int(table.video_N[part[0]]), int(table.person_N[part[0]])
        span_T2 = span_N2[part[first_T]]
        # A file may leave out rows of low scores.
        smooth_TC = smoothed(times_T, np.where(np.isneginf(score_TC), 0, score_TC), rules.smooth_s)
        of_person = [
            Segment(
                video=table.videos[video],
                person=person,
                label_id=classes[column],
                start_ms=float(span_T2[first, 0]),
                end_ms=float(span_T2[last, 1]),
                score=float(smooth_TC[first : last + 1, column].mean()),
            )
            for column in range(len(classes))
            for first, last in _runs(smooth_TC[:, column], threshold_C[column], span_T2, rules)
        ]
        found += sorted(of_person, key=lambda segment: (segment.start_ms, segment.label_id))
    return found


def smoothed(time_ms_T: NDArray[np.int64], score_TC: NDArray[np.float64], smooth_s: float) -> NDArray[np.float64]:
    """Return the means weighted by a Gaussian of the time between key frames, over those within three sigmas.

    time_ms_T: increasing.
    """
    total_TC, weight_T = score_TC.copy(), np.ones(len(time_ms_T))
    for offset in range(1, len(time_ms_T)) if smooth_s else ():
        sigmas = (time_ms_T[offset:] - time_ms_T[:-offset]) / (1000 * smooth_s)
        near = sigmas <= _SIGMAS
        if not near.any():
            break
        weight = np.where(near, np.exp(-0.5 * sigmas**2), 0)
        for here, there in ((slice(None, -offset), slice(offset, None)), (slice(offset, None), slice(None, -offset))):
            total_TC[here] += weight[:, None] * score_TC[there]
            weight_T[here] += weight
    return total_TC / weight_T[:, None]


def _spans(table: Table) -> NDArray[np.float64]:
    """Return what time each row's key frame stands for [N, 2], in milliseconds: half a step before and after it.

    A step is the median one of the file; the middle to a neighbouring key frame is never passed.
    """
    order = np.lexsort((table.time_ms_N, table.video_N))
    video_N, time_N = table.video_N[order], table.time_ms_N[order]
    new_N = np.append(True, (np.diff(video_N) != 0) | (np.diff(time_N) != 0))
    video_K, time_K = video_N[new_N], time_N[new_N]
    step_K = np.where(np.diff(video_K) == 0, np.diff(time_K), np.inf)  # to the next key frame
    steps = step_K[np.isfinite(step_K)]
    half = float(np.median(steps) if len(steps) else _LONE_STEP_MS) / 2
    before_K, after_K = np.append(np.inf, step_K) / 2, np.append(step_K, np.inf) / 2
    span_K2 = np.stack([time_K - np.minimum(before_K, half), time_K + np.minimum(after_K, half)], axis=1)
    span_N2 = np.empty((len(order), 2))
    span_N2[order] = np.maximum(span_K2, 0)[np.cumsum(new_N) - 1]
    return span_N2


def _runs(
    score_T: NDArray[np.float64], threshold: float, span_T2: NDArray[np.float64], rules: SegmentRules
) -> Iterator[tuple[int, int]]:
    places = np.flatnonzero(score_T >= rules.hold * threshold)
    pause = span_T2[places[1:], 0] - span_T2[places[:-1], 1]
    for run in np.split(places, np.flatnonzero(pause > 1000 * rules.max_gap_s) + 1):
        starts = (score_T[run] >= threshold).any()
        if starts and span_T2[run[-1], 1] - span_T2[run[0], 0] >= 1000 * rules.min_length_s:
            yield int(run[0]), int(run[-1])


def segments_csv(segments: Sequence[Segment], names: Mapping[int, str]) -> str:
    """Return the content of an actions.csv: a header, then a line for each segment; times in seconds.

    names: by label id.
    """
    content = io.StringIO()
    writer = csv.writer(content, lineterminator="\n")
    writer.writerow(COLUMNS)
    for item in segments:
        times = (item.start_ms / 1000, item.end_ms / 1000)
        writer.writerow((item.video, item.person, names[item.label_id], *times, item.score))
    return content.getvalue()
