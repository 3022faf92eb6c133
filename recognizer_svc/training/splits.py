"""The published splits that a recipe trains and validates on, those of several data sets as one.

Mappings have the keys of `Data.datasets`: the first data set is "", and its videos keep their names. A video of another
one is called DATASET/VIDEO; ids of videos hold no '/', so no two are the same.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from cache.split_store import PublishedSplit, load_split
from cache.store import Store
from recognizer_svc.training.held_out import divide
from recognizer_svc.training.recipe import Recipe
from recognizer_svc.training.recipe_sections import use_of
from stal_data.errors import InputError
from stal_data.keyframes import AnnotatedKeyFrame, KeyFrame
from stal_data.labels import Label, LabelMap


@dataclass(frozen=True, kw_only=True)
class RunSplits:
    """by_use: as published; see `use_of`. trained_on, checked_on: all data sets as one.

    labelled: which classes each data set labels [C]. notes: what the user should know.
    """

    by_use: dict[str, PublishedSplit]
    label_map: LabelMap
    trained_on: PublishedSplit
    checked_on: PublishedSplit | None
    labelled: dict[str, NDArray[np.bool_]]
    notes: list[str]


def open_splits(recipe: Recipe, store: Store) -> RunSplits:
    """Load the splits and join them and their label maps."""
    data, validation = recipe.data, recipe.validation
    by_use, trained, checked = {}, {}, {}
    maps: dict[str, LabelMap] = {}
    for key, dataset in data.datasets.items():
        split = by_use[use_of("train", key)] = trained[key] = load_split(store, dataset, data.train_split)
        if split.label_map is None:
            raise InputError(f"{dataset}/{data.train_split} has no label map, so there is nothing to train for.")
        maps[key] = split.label_map
        if dataset in recipe.validated_datasets and validation.held_out is not None:
            trained[key], checked[key] = divide(split, validation.held_out)
        elif dataset in recipe.validated_datasets and validation.split is not None:
            checked[key] = by_use[use_of("validation", key)] = _validation_split(store, split, validation.split)
    labels = _union(maps.values()) if data.additional else maps[""]
    return RunSplits(
        by_use=by_use,
        label_map=labels,
        trained_on=_joined(trained, labels),
        checked_on=_joined(checked, labels) if checked else None,
        labelled={key: np.isin(labels.names, own.names) for key, own in maps.items()},
        notes=[note for key, own in maps.items() for note in _notes(data.datasets[key], own, labels)],
    )


def _union(maps: Iterable[LabelMap]) -> LabelMap:
    """Return all classes by name: the first map's, and behind them new names, with their ids where these are larger."""
    labels: dict[str, Label] = {}
    last = 0
    for label in (label for one in maps for label in one.labels):
        if label.name not in labels:
            last = max(label.id, last + 1)
            labels[label.name] = replace(label, id=last)
    return LabelMap(labels.values(), "the label map of all data sets")


def _joined(splits: Mapping[str, PublishedSplit], labels: LabelMap) -> PublishedSplit:
    """Return all key frames as one split, without counts of rows. labels: has the classes of all, by name."""
    if list(splits) == [""]:
        return splits[""]
    id_of = dict(zip(labels.names, labels.ids, strict=True))

    def moved(dataset: str, item: AnnotatedKeyFrame, own: LabelMap) -> AnnotatedKeyFrame:
        key = KeyFrame(f"{dataset}/{item.key.video}", item.key.time_ms) if dataset else item.key
        ids = (frozenset(id_of[own.names[own.index_of(old)]] for old in person) for person in item.labels)
        return replace(item, key=key, labels=tuple(ids), row_counts=None)

    found = [moved(name, item, one.label_map or labels) for name, one in splits.items() for item in one.key_frames]
    dataset, _, split = " and ".join(f"{one.dataset}/{one.split}" for one in splits.values()).rpartition("/")
    return PublishedSplit(
        dataset=dataset,  # both for messages
        split=split,
        key_frames=tuple(sorted(found, key=lambda item: item.key)),
        exclusions=frozenset(),
        annotated=all(one.annotated for one in splits.values()),
        label_map=labels,
        digest="",
    )


def _notes(dataset: str, own: LabelMap, labels: LabelMap) -> list[str]:
    notes, ids = [], dict(zip(labels.names, labels.ids, strict=True))
    if absent := [name for name in labels.names if name not in own.names]:
        notes.append(f"{dataset} does not label {', '.join(absent)}, and its people say nothing of it")
    if moved := [f"{item.name} {item.id} / {ids[item.name]}" for item in own.labels if ids[item.name] != item.id]:
        notes.append(f"predictions have other ids than the label map of {dataset} (there / here): {', '.join(moved)}")
    return notes


def _validation_split(store: Store, trained_on: PublishedSplit, name: str) -> PublishedSplit:
    dataset = trained_on.dataset
    split = load_split(store, dataset, name)
    if split.label_map is not None and split.label_map != trained_on.label_map:
        raise InputError(
            f"The label maps of {dataset}/{trained_on.split} and {dataset}/{name} "
            "differ; publish both splits with one label map by running precompute on both again."
        )
    return replace(split, label_map=trained_on.label_map)
