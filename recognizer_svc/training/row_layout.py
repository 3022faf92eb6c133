"""The published layout: one clip for each annotation row, with the row's person alone and the row's action alone.

Features stay one row a key frame; the layout changes only what the head is shown, and how often.
"""

from collections.abc import Iterable, Iterator

import numpy as np

from cache.split_store import PublishedSplit
from recognizer_svc.data import LabelledKeyFrame, labelled_key_frames
from stal_data.errors import InputError
from stal_data.keyframes import AnnotatedKeyFrame
from stal_data.labels import LabelMap


def rows_of(item: AnnotatedKeyFrame) -> Iterator[tuple[int, int]]:
    """Yield the position of the person and the label id of each row, as often as the published reader has it."""
    for person, labels in enumerate(item.labels):
        counts = (1,) * len(labels) if item.row_counts is None else item.row_counts[person]
        for label_id, count in zip(sorted(labels), counts, strict=True):
            for _ in range(count):
                yield person, label_id


def row_clips(split: PublishedSplit, label_map: LabelMap) -> list[LabelledKeyFrame]:
    """Return a clip for each row; the targets say nothing of the person's other actions, as published."""
    known = {item.key for item in labelled_key_frames(split, label_map)}
    clips = []
    for item in split.key_frames:
        if item.key not in known:
            continue
        for part, (person, label_id) in enumerate(rows_of(item), start=1):
            targets_NC = np.zeros((1, label_map.num_classes), dtype=np.float32)
            targets_NC[0, label_map.index_of(label_id)] = 1
            boxes_N4 = item.boxes_N4[person : person + 1]
            clips.append(LabelledKeyFrame(key=item.key, boxes_N4=boxes_N4, targets_NC=targets_NC, part=part))
    if not clips:
        raise InputError(
            f"{split.dataset}/{split.split} has a single row, and the layout 'rows' loses the first; use key_frames."
        )
    return clips


def single_people(items: Iterable[LabelledKeyFrame]) -> list[LabelledKeyFrame]:
    """Return a clip for each person, alone, with all of the person's actions."""
    return [
        LabelledKeyFrame(
            key=item.key,
            boxes_N4=item.boxes_N4[person : person + 1],
            targets_NC=item.targets_NC[person : person + 1],
            part=person + 1,
        )
        for item in items
        for person in range(len(item.boxes_N4))
    ]


def counts_note(split: PublishedSplit) -> str | None:
    """Say where the rows of a split are not known."""
    if all(item.row_counts is not None for item in split.key_frames):
        return None
    return (
        f"{split.dataset}/{split.split} was published without counts of its rows: each counts once and none is lost; "
        "'stal-cli precompute' publishes the split again"
    )
