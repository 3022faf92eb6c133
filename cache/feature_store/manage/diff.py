"""How two feature sets differ, from their specs, indexes and row digests; features are read where digests differ."""

from dataclasses import dataclass
from pathlib import Path

from cache.feature_store.manage.rounding import has_bound, within_rounding
from cache.feature_store.reader import FeatureSet
from stal_data.keyframes import KeyFrame


@dataclass(frozen=True, kw_only=True)
class SetDifference:
    """spec: fields that differ, as `name: value in A, value in B`.

    only_in_a, only_in_b: key frames that the other does not have. different: rows with other features, another window
    or other frames. other_media: those of `different` whose frames or window differ. rounded: rows of the same frames
    whose features are the same up to the order of sums, as other threads, batches and processors give them.
    not_computed: key frames of both that one of them has not computed, so that nothing can be said.
    equal: rows with the same digest.
    """

    spec: tuple[str, ...]
    only_in_a: tuple[KeyFrame, ...]
    only_in_b: tuple[KeyFrame, ...]
    different: tuple[KeyFrame, ...]
    other_media: tuple[KeyFrame, ...]
    rounded: tuple[KeyFrame, ...]
    not_computed: tuple[KeyFrame, ...]
    equal: int

    @property
    def same(self) -> bool:
        return not (self.spec or self.only_in_a or self.only_in_b or self.different or self.not_computed)


def diff_feature_sets(path_a: Path, path_b: Path) -> SetDifference:
    a, b = FeatureSet(path_a), FeatureSet(path_b)
    marks_a, marks_b = a.marks(), b.marks()
    rows_b = {key: row for row, key in enumerate(b.key_frames)}
    common = [(key, row, rows_b[key]) for row, key in enumerate(a.key_frames) if key in rows_b]
    comparable = a.spec == b.spec and has_bound(a.spec)
    different, other_media, rounded, not_computed, equal = [], [], [], [], 0
    for key, row_a, row_b in common:
        if not (marks_a.done_K[row_a] and marks_b.done_K[row_b]):
            not_computed.append(key)
        elif marks_a.digests_K[row_a] == marks_b.digests_K[row_b]:
            equal += 1
        elif _media(a, row_a) != _media(b, row_b):
            different.append(key)
            other_media.append(key)
        elif comparable and within_rounding(a.read([row_a]), b.read([row_b])):
            rounded.append(key)
        else:
            different.append(key)
    return SetDifference(
        spec=tuple(a.spec.diff(b.spec)),
        only_in_a=tuple(key for key in a.key_frames if key not in rows_b),
        only_in_b=tuple(sorted(rows_b.keys() - set(a.key_frames))),
        different=tuple(different),
        other_media=tuple(other_media),
        rounded=tuple(rounded),
        not_computed=tuple(not_computed),
        equal=equal,
    )


def _media(features: FeatureSet, row: int) -> tuple[int, list[int]]:
    return int(features.index.sources_K[row]), features.index.windows_K2[row].tolist()
