"""Divides videos among splits so that each split gets its share of every class."""

from collections import Counter
from collections.abc import Mapping
from fractions import Fraction
from random import Random

KEY_FRAMES = 0
"""Counted beside the ids of classes, which begin at 1: every video has it."""


def stratify(counts: Mapping[str, Mapping[int, int]], fractions: Mapping[str, Fraction], seed: int) -> dict[str, str]:
    """Return the split of each video, by iterative stratification after Sechidis et al. (2011).

    counts: of each video, how often it has each class, and KEY_FRAMES. fractions: of each split; their sum is 1.

    Classes that some split has not got yet come first, and of these the one that the fewest undivided videos have. Each
    of its videos, those with most of it first, goes to the split that lacks most of its share of the class, then of the
    key frames. The last videos are kept for splits that have none of the class yet, or none at all. The seed decides
    only between equal videos.
    """
    names = sorted(counts)
    Random(seed).shuffle(names)
    total: Counter[int] = Counter()
    left: Counter[int] = Counter()
    for video in names:
        total.update(counts[video])
        left.update(label for label, count in counts[video].items() if count)
    wanted = {split: {label: part * count for label, count in total.items()} for split, part in fractions.items()}
    videos = Counter(left)
    has: dict[str, set[int]] = {split: set() for split in fractions}
    found: dict[str, str] = {}
    while left := +left:
        # KEY_FRAMES last: it is for the videos without any class.
        everywhere = set.intersection(*has.values())
        label = min(left, key=lambda kind: (kind == KEY_FRAMES, kind in everywhere, left[kind], videos[kind], kind))
        undivided = [video for video in names if video not in found and counts[video].get(label)]
        for video in sorted(undivided, key=lambda name: -counts[name][label]):
            lacking: list[str] = []
            for kind in (KEY_FRAMES, label):
                without = [split for split in fractions if kind not in has[split]]
                lacking = lacking or (without if left[kind] <= len(without) else [])
            split = max(lacking or fractions, key=lambda item: (wanted[item][label], wanted[item][KEY_FRAMES]))
            found[video] = split
            for kind, count in counts[video].items():
                wanted[split][kind] -= count
                if count:
                    has[split].add(kind)
                    left[kind] -= 1
    return found
