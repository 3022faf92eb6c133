"""Why predictions and ground truth share few key frames: other spellings of video ids, other kinds of timestamps."""

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from pathlib import PurePath

import numpy as np

from stal_data.amounts import amount
from stal_data.keyframes import KeyFrame
from stal_data.times import format_time
from stal_eval.alignment import Alignment
from stal_eval.finding import Finding

_SHARED = 0.5  # share of the smaller side's key frames that makes a match
_VIDEOS_TRIED = 50
_FRAME_RATES = (24, 25, 30, 50, 60)

Times = Mapping[str, set[int]]
"""Video id to the times of its key frames, in milliseconds."""

_REWRITINGS: tuple[tuple[str, Callable[[str], str]], ...] = (
    ("spaces around them", str.strip),
    ("file endings", lambda video: video.rpartition(".")[0] or video),
    ("folders", lambda video: PurePath(video).name),
    ("folders and file endings", lambda video: PurePath(PurePath(video).name).stem),
    ("upper and lower case", str.lower),
    ("leading zeros", lambda video: video.lstrip("0") or "0"),
)


def check_keys(alignment: Alignment) -> tuple[Finding, ...]:
    counts = alignment.counts
    fewer = min(counts.key_frames_with_predictions, counts.key_frames_with_ground_truth)
    if counts.key_frames_with_both >= _SHARED * fewer:
        return ()
    predicted, annotated = _times(alignment)
    both = counts.key_frames_with_both
    shared = f"Predictions and ground truth share {amount(both, 'key frame') if both else 'no key frame'}"
    if len(predicted.keys() & annotated.keys()) < _SHARED * min(len(predicted), len(annotated)):
        return (_video_ids(predicted, annotated, shared),)
    return (_timestamps(predicted, annotated, shared),)


def _times(alignment: Alignment) -> tuple[Times, Times]:
    sides = []
    for rows in (alignment.predictions, alignment.ground_truth):
        times: dict[str, set[int]] = defaultdict(set)
        for number in np.flatnonzero(np.bincount(rows.key_N)).tolist():
            key: KeyFrame = alignment.keys[number]
            times[key.video].add(key.time_ms)
        sides.append(times)
    return sides[0], sides[1]


def _video_ids(predicted: Times, annotated: Times, shared: str) -> Finding:
    only_predicted, only_annotated = sorted(predicted.keys() - annotated), sorted(annotated.keys() - predicted)
    for what, rewrite in _REWRITINGS:
        truth_of = {rewrite(video): video for video in only_annotated}
        pairs = [(video, truth_of[rewrite(video)]) for video in only_predicted if rewrite(video) in truth_of]
        if len(pairs) >= _SHARED * min(len(only_predicted), len(only_annotated)):
            return Finding(
                cause="video_ids",
                evidence=f"{shared}: the video ids differ in {what}, '{pairs[0][0]}' in the predictions is "
                f"'{pairs[0][1]}' in the ground truth.",
                fix="Write the ids of the predictions as in the ground truth.",
            )
    return Finding(
        cause="video_ids",
        evidence=f"{shared}: the predictions name videos such as '{only_predicted[0]}', the ground truth such as "
        f"'{only_annotated[0]}'.",
        fix="Check that the predictions are of this split, and write the video ids as in the ground truth.",
    )


def _timestamps(predicted: Times, annotated: Times, shared: str) -> Finding:
    """Try to shift or to scale the predictions' timestamps onto those of the ground truth."""
    videos = sorted(predicted.keys() & annotated.keys())[:_VIDEOS_TRIED]

    def share(change: Callable[[int], int]) -> float:
        hits = sum(len({change(time_ms) for time_ms in predicted[video]} & annotated[video]) for video in videos)
        return hits / max(sum(min(len(predicted[video]), len(annotated[video])) for video in videos), 1)

    offset = _common_offset(predicted, annotated, videos)
    by_s = f"{abs(offset) / 1000:.3f}".rstrip("0").rstrip(".")
    tries: list[tuple[float, float, str, str]] = [
        (
            share(lambda time_ms: time_ms + offset),
            1.0,
            f"the ground truth's timestamps are {by_s} {'above' if offset > 0 else 'below'} the predictions'",
            f"{'Add' if offset > 0 else 'Subtract'} {by_s} {'to' if offset > 0 else 'from'} the predictions' "
            "timestamps.",
        )
    ]
    for factor in (*_FRAME_RATES, 1000):
        kind = "milliseconds" if factor == 1000 else f"frame numbers at {factor} a second"
        to_second, down, up = (
            (lambda time_ms, by=factor: time_ms // by // 1000 * 1000),
            (lambda time_ms, by=factor: time_ms // by),
            (lambda time_ms, by=factor: time_ms * by),
        )
        for hits, side, what, unit in (
            (share(to_second), predicted, "predictions'", "whole seconds"),
            (share(down), predicted, "predictions'", "seconds"),
            (share(up), annotated, "ground truth's", "seconds"),
        ):
            regular = _regularity(side, videos, factor)
            tries.append((hits, regular, f"the {what} look like {kind}", f"Divide them by {factor}: {unit}."))
    best, _, evidence, fix = max(tries, key=lambda item: item[:2])
    if best >= _SHARED:
        return Finding(cause="timestamps", evidence=f"{shared}, although the video ids agree: {evidence}.", fix=fix)
    video = videos[0]
    return Finding(
        cause="timestamps",
        evidence=f"{shared}, although the video ids agree: of '{video}' the predictions have {_few(predicted[video])}, "
        f"the ground truth {_few(annotated[video])}.",
        fix="Write timestamps as seconds of the video on both sides.",
    )


def _common_offset(predicted: Times, annotated: Times, videos: list[str]) -> int:
    differences: Counter[int] = Counter()
    for video in videos:
        # The ends of the ranges and the pairs of some times tell a shift apart well enough.
        few = sorted(predicted[video])[:_VIDEOS_TRIED]
        differences.update(truth - time_ms for time_ms in few for truth in annotated[video] if truth != time_ms)
    return differences.most_common(1)[0][0] if differences else 0


def _regularity(side: Times, videos: list[str], factor: int) -> float:
    """Return the share of timestamps with the most common remainder: frames of whole seconds have the same."""
    remainders = Counter(time_ms // 1000 % factor for video in videos for time_ms in side[video])
    return remainders.most_common(1)[0][1] / remainders.total()


def _few(times: set[int]) -> str:
    shown = ", ".join(map(format_time, sorted(times)[:3]))
    return f"{shown} .." if len(times) > 3 else shown
