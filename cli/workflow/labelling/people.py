"""Predicted people as a split that can be written for an annotation tool."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import groupby

import numpy as np

from cli.workflow.predictions import Person
from cli.workflow.results.people import followed
from recognizer_svc.people import People
from stal_data.amounts import amount
from stal_data.dataset import Split
from stal_data.errors import InputError
from stal_data.keyframes import AnnotatedKeyFrame, KeyFrame
from stal_data.labels import LabelMap


def suggested_split(
    split: Split, people: Mapping[KeyFrame, Sequence[Person]], label_map: LabelMap, cuts: Mapping[int, float]
) -> tuple[Split, int]:
    """Return the split with the predicted people in place of its own, and how many boxes without area it leaves out.

    cuts: the score from which a person shows an action, by label id. Ids of people are those of their tracks; others
    are followed by their boxes.
    """
    if unknown := sorted(people.keys() - {item.key for item in split.key_frames}):
        raise InputError(
            f"The predictions have {amount(len(unknown), 'key frame')} that split '{split.name}' lacks, the first is "
            f"{unknown[0]}: give the split that was predicted."
        )
    for label in {label for found in people.values() for who in found for label, _ in who.actions}:
        label_map.index_of(label)  # an error where it is none of the map
    with_area = {key: [who for who in found if _with_area(who)] for key, found in people.items()}
    key_frames: list[AnnotatedKeyFrame] = []
    for _, items in groupby(split.key_frames, key=lambda item: item.key.video):
        of_video = list(items)
        for item, found in zip(of_video, followed([with_area.get(item.key, []) for item in of_video]), strict=True):
            labels = (
                frozenset(label for label, score in who.actions if score >= cuts[label]) for who in found.values()
            )
            boxes_N4 = np.array([who.box for who in found.values()], dtype=np.float32).reshape(-1, 4).clip(0, 1)
            persons = tuple(found)
            key_frames.append(replace(item, boxes_N4=boxes_N4, labels=tuple(labels), persons=persons, row_counts=None))
    empty = sum(map(len, people.values())) - sum(map(len, with_area.values()))
    return replace(split, key_frames=tuple(key_frames), annotated=True, label_map=label_map), empty


def _with_area(person: Person) -> bool:
    return bool(People.of(np.array([person.box], dtype=np.float32).clip(0, 1)).with_area[0])
