"""`dataset stats`: what a split holds, counted."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations, combinations_with_replacement

from stal_data.boxes import BOX_SIZES, box_sizes
from stal_data.dataset import Dataset, Split
from stal_data.errors import InputError
from stal_data.validation import Counts

PairCount = tuple[str, str, int]
"""Two classes in the order of the label map, and how often."""


@dataclass(frozen=True, kw_only=True)
class SplitCounts:
    """counts: as `dataset info` has them. people: key frames by their number of people. sizes: boxes by BOX_SIZES.

    one_person: people by each pair of classes that they show together.
    two_people: key frames by each pair of classes that two different people show, also of the same class twice.
    Pairs that occur most come first; others do not occur.
    """

    counts: Counts
    people: Mapping[int, int]
    sizes: Mapping[str, int]
    one_person: tuple[PairCount, ...]
    two_people: tuple[PairCount, ...]


def count_dataset(dataset: Dataset) -> list[SplitCounts]:
    """Count the splits that have annotations; that there is none is an error."""
    splits = [dataset.split(name) for name in dataset.split_names]
    counted = [count_split(split) for split in splits if split.annotated]
    if not counted:
        raise InputError(
            f"{dataset.path} has no split with annotations, so there is nothing to count: bring some in with "
            "'stal-cli dataset import'."
        )
    return counted


def count_split(split: Split) -> SplitCounts:
    """Count the key frames that are not excluded."""
    names = {} if split.label_map is None else dict(zip(split.label_map.ids, split.label_map.names, strict=True))
    people: Counter[int] = Counter()
    sizes: Counter[str] = Counter(dict.fromkeys(BOX_SIZES, 0))
    one_person: Counter[tuple[int, int]] = Counter()
    two_people: Counter[tuple[int, int]] = Counter()
    for item in split.key_frames:
        people[len(item.labels)] += 1
        sizes.update(BOX_SIZES[place] for place in box_sizes(item.boxes_N4))
        shown = Counter(label for labels in item.labels for label in labels)
        together = Counter(pair for labels in item.labels for pair in combinations(sorted(labels), 2))
        together.update({(label, label): count for label, count in shown.items()})
        one_person.update({pair: count for pair, count in together.items() if pair[0] != pair[1]})
        # Of all choices of somebody for each class, some choose one person twice.
        pairs = combinations_with_replacement(sorted(shown), 2)
        two_people.update(pair for pair in pairs if shown[pair[0]] * shown[pair[1]] > together[pair])
    return SplitCounts(
        counts=Counts.of(split),
        people=dict(sorted(people.items())),
        sizes=dict(sizes),
        one_person=_named(one_person, names),
        two_people=_named(two_people, names),
    )


def _named(counted: Counter[tuple[int, int]], names: Mapping[int, str]) -> tuple[PairCount, ...]:
    ranked = sorted(counted.items(), key=lambda item: (-item[1], item[0]))
    return tuple((names[a], names[b], count) for (a, b), count in ranked)
