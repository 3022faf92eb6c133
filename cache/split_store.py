"""A split as the other machines see it: key frames, people and label map, published under the store."""

import hashlib
import json
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from cache import h5
from cache.files import replacing
from cache.store import Store
from stal_data.dataset import SplitContent
from stal_data.errors import InputError, NotFoundError, did_you_mean
from stal_data.keyframes import AnnotatedKeyFrame, KeyFrame
from stal_data.labels import LabelMap

KIND = h5.Kind(
    name="split", version=2, way_out="Publish the split again: 'stal-cli precompute' and 'stal-cli detect' do."
)
NO_WINDOW = (-1, -1)


@dataclass(frozen=True, kw_only=True)
class PublishedSplit:
    """What training, prediction and evaluation need of a split; the media stay where they are.

    key_frames: sorted by key; excluded ones are not among them.
    annotated: False where nobody labelled the videos, so that no people means unknown, not none.
    digest: sha256 (hex) of all of the above and the label map; the same content always gives the same digest.
    """

    dataset: str
    split: str
    key_frames: tuple[AnnotatedKeyFrame, ...]
    exclusions: frozenset[KeyFrame]
    annotated: bool
    label_map: LabelMap | None
    digest: str


@dataclass(frozen=True, kw_only=True, eq=False)
class _Columns:
    """The people of all key frames laid end to end; ragged columns have offsets.

    row_counts: one for each label; None where the key frames have none.
    """

    windows_K2: NDArray[np.int64]
    offsets_K1: NDArray[np.int64]
    boxes_N4: NDArray[np.float32]
    persons_N: NDArray[np.int64]
    label_offsets_N1: NDArray[np.int64]
    labels: NDArray[np.int64]
    row_counts: NDArray[np.int64] | None

    def arrays(self) -> dict[str, NDArray[Any]]:
        return {name: values for name, values in vars(self).items() if values is not None}


def publish_split(store: Store, split: SplitContent) -> PublishedSplit:
    """Write the split under the store; a file with the same content stays as it is."""
    columns = _to_columns(split.key_frames)
    label_map = "" if split.label_map is None else split.label_map.to_pbtxt()
    keys = tuple(item.key for item in split.key_frames)
    exclusions = tuple(sorted(split.exclusions))
    digest = _digest(split.dataset, split.name, keys, exclusions, split.annotated, label_map, columns)
    published = PublishedSplit(
        dataset=split.dataset,
        split=split.name,
        key_frames=split.key_frames,
        exclusions=split.exclusions,
        annotated=split.annotated,
        label_map=split.label_map,
        digest=digest,
    )
    path = split_file(store, split.dataset, split.name)
    store.backend.fetch(path)
    if _is_published(path, digest):
        return published
    with replacing(path) as partial, h5.creating(partial, KIND) as file:
        file.attrs.update({"dataset": split.dataset, "split": split.name, "annotated": split.annotated})
        file.attrs.update({"digest": digest})
        # A dataset, not an attribute: attributes are limited to 64 KiB.
        file.create_dataset("label_map", data=label_map, dtype=h5py.string_dtype())
        h5.write_keys(file.create_group("key_frames"), keys)
        h5.write_keys(file.create_group("exclusions"), exclusions)
        for name, values in columns.arrays().items():
            file.create_dataset(name, data=values)
    store.backend.publish(path)
    return published


def load_split(store: Store, dataset: str, split: str) -> PublishedSplit:
    """Read a published split and check its digest."""
    path = split_file(store, dataset, split)
    store.backend.fetch(path)
    if not path.exists():
        known = [
            f"{found.parent.parent.name}/{found.parent.name}" for found in store.root.glob("annotations/*/*/split.h5")
        ]
        raise NotFoundError(
            f"{dataset}/{split} is not published in '{store.name}'. {did_you_mean(f'{dataset}/{split}', known)} "
            "'stal-cli precompute' and 'stal-cli detect' publish the split they run on."
        )
    with h5.reading(path, KIND) as file:
        label_map = h5.dataset(file, "label_map").asstr()[()]
        keys, exclusions = h5.read_keys(file, "key_frames"), h5.read_keys(file, "exclusions")
        annotated, stored = bool(file.attrs["annotated"]), str(file.attrs["digest"])
        required = [name for name in _Columns.__dataclass_fields__ if name != "row_counts"]
        counts = h5.dataset(file, "row_counts")[:] if "row_counts" in file else None
        columns = _Columns(**{name: h5.dataset(file, name)[:] for name in required}, row_counts=counts)
    digest = _digest(dataset, split, keys, exclusions, annotated, label_map, columns)
    if digest != stored:
        raise InputError(f"'{path}' is damaged: its content does not match its digest. {KIND.way_out}")
    return PublishedSplit(
        dataset=dataset,
        split=split,
        key_frames=_from_columns(keys, columns),
        exclusions=frozenset(exclusions),
        annotated=annotated,
        label_map=LabelMap.parse(label_map, str(path)) if label_map else None,
        digest=digest,
    )


def split_file(store: Store, dataset: str, split: str) -> Path:
    """Return where a split is published; the file need not be there."""
    return store.annotations_dir(dataset, split) / "split.h5"


def list_splits(store: Store, dataset: str | None = None, split: str | None = None) -> list[tuple[str, str]]:
    """Return data set and split of what is published, sorted; of one data set or split where it is named."""
    found = {(path.parent.parent.name, path.parent.name) for path in store.find("annotations", dataset, split, "*.h5")}
    folders = (folder.split("/") for folder in store.backend.splits("annotations", dataset, split))
    return sorted(found | {(name, part) for _, name, part, _ in folders})


def _is_published(path: Path, digest: str) -> bool:
    """Whether a sound file with this content is there; what does not read is replaced."""
    try:
        with h5.reading(path, KIND) as file:
            return str(file.attrs["digest"]) == digest
    except (InputError, NotFoundError):
        return False


def _digest(
    dataset: str,
    split: str,
    keys: tuple[KeyFrame, ...],
    exclusions: tuple[KeyFrame, ...],
    annotated: bool,
    label_map: str,
    columns: _Columns,
) -> str:
    head = [dataset, split, [str(key) for key in keys], [str(key) for key in exclusions], annotated, label_map]
    digest = hashlib.sha256(json.dumps(head).encode())
    for name, values in columns.arrays().items():
        digest.update(f"{name}{values.shape}{values.dtype.str}".encode())
        digest.update(values.tobytes())
    return digest.hexdigest()


def _ends(lengths: list[int]) -> NDArray[np.int64]:
    """Return offsets 0, l0, l0+l1, ... of ragged rows."""
    return np.cumsum([0, *lengths], dtype=np.int64)


def _to_columns(key_frames: tuple[AnnotatedKeyFrame, ...]) -> _Columns:
    labels = [sorted(person) for item in key_frames for person in item.labels]
    boxes = [np.asarray(item.boxes_N4, dtype=np.float32).reshape(-1, 4) for item in key_frames]
    counts = [count for item in key_frames for person in item.row_counts or () for count in person]
    return _Columns(
        windows_K2=np.array([item.window or NO_WINDOW for item in key_frames], dtype=np.int64).reshape(-1, 2),
        offsets_K1=_ends([len(item.labels) for item in key_frames]),
        boxes_N4=np.concatenate([np.empty((0, 4), np.float32), *boxes]),
        persons_N=np.array([person for item in key_frames for person in item.persons], dtype=np.int64),
        label_offsets_N1=_ends([len(ids) for ids in labels]),
        labels=np.array([label for ids in labels for label in ids], dtype=np.int64),
        row_counts=None if any(item.row_counts is None for item in key_frames) else np.array(counts, dtype=np.int64),
    )


def _from_columns(keys: tuple[KeyFrame, ...], columns: _Columns) -> tuple[AnnotatedKeyFrame, ...]:
    ends = columns.label_offsets_N1.tolist()
    ids = columns.labels.tolist()
    labels = [frozenset(ids[start:end]) for start, end in pairwise(ends)]
    persons = columns.persons_N.tolist()
    counts: list[tuple[int, ...]] | None = None
    if columns.row_counts is not None:
        flat = columns.row_counts.tolist()
        counts = [tuple(flat[start:end]) for start, end in pairwise(ends)]
    key_frames = []
    for row, key in enumerate(keys):
        rows = slice(int(columns.offsets_K1[row]), int(columns.offsets_K1[row + 1]))
        start, end = columns.windows_K2[row].tolist()
        key_frames.append(
            AnnotatedKeyFrame(
                key=key,
                window=None if (start, end) == NO_WINDOW else (start, end),
                boxes_N4=columns.boxes_N4[rows],
                labels=tuple(labels[rows]),
                persons=tuple(persons[rows]),
                row_counts=None if counts is None else tuple(counts[rows]),
            )
        )
    return tuple(key_frames)
