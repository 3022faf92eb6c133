"""Average precision of resampled videos: all resamples advance together through one pass over the rows."""

import numpy as np
from numpy.typing import NDArray

from stal_eval.compiled import compiled


def draw_weights(num_videos: int, replicates: int, seed: int) -> NDArray[np.int32]:
    """Return how often each of V videos is drawn in each of R resamples of V videos, [V, R]."""
    rng = np.random.default_rng(seed)
    return np.ascontiguousarray(
        rng.multinomial(num_videos, np.full(num_videos, 1 / num_videos), replicates).T, np.int32
    )


@compiled
def resampled_average_precision(
    video_N: NDArray[np.int32],
    hit_N: NDArray[np.bool_],
    class_offsets: NDArray[np.int64],
    truth_VK: NDArray[np.int64],
    weight_VR: NDArray[np.int32],
) -> NDArray[np.float64]:
    """Return AP [K, R] of rows in class-major order, best first; NaN where a resample has no ground truth of the class.

    A video that is drawn w times counts w times: each of its rows stands w times in a row, its ground truth is there w
    times. Of w right rows in a row the last has the highest precision, so they share one interpolated precision.
    """
    num_classes, num_resamples = truth_VK.shape[1], weight_VR.shape[1]
    ap_KR = np.empty((num_classes, num_resamples))
    truth_R = np.empty(num_resamples, np.int64)
    kept_R = np.empty(num_resamples, np.int32)  # rows from the best to the current one
    hits_R = np.empty(num_resamples, np.int32)
    envelope_R = np.empty(num_resamples)
    rows_V = np.empty(truth_VK.shape[0], np.int32)
    right_V = np.empty(truth_VK.shape[0], np.int32)
    for label in range(num_classes):
        first, last = class_offsets[label], class_offsets[label + 1]
        while last > first and not hit_N[last - 1]:
            last -= 1  # what ranks behind the last right row changes nothing
        rows_V[:] = 0
        right_V[:] = 0
        for row in range(first, last):
            rows_V[video_N[row]] += 1
            right_V[video_N[row]] += hit_N[row]
        truth_R[:] = 0
        kept_R[:] = 0
        hits_R[:] = 0
        envelope_R[:] = 0.0
        area_R = ap_KR[label]
        area_R[:] = 0.0
        for video in range(truth_VK.shape[0]):
            weight_R = weight_VR[video]
            for r in range(num_resamples):
                truth_R[r] += truth_VK[video, label] * weight_R[r]
                kept_R[r] += rows_V[video] * weight_R[r]
                hits_R[r] += right_V[video] * weight_R[r]
        for row in range(last - 1, first - 1, -1):
            weight_R = weight_VR[video_N[row]]
            if hit_N[row]:
                for r in range(num_resamples):
                    if weight_R[r] > 0:
                        envelope_R[r] = max(envelope_R[r], hits_R[r] / kept_R[r])
                        area_R[r] += weight_R[r] * envelope_R[r]
                        hits_R[r] -= weight_R[r]
            for r in range(num_resamples):
                kept_R[r] -= weight_R[r]
        for r in range(num_resamples):
            area_R[r] = area_R[r] / truth_R[r] if truth_R[r] > 0 else np.nan
    return ap_KR
