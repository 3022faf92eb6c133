from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from cache.split_store import PublishedSplit, load_split, publish_split
from cache.store import Store
from stal_data.dataset import Split
from stal_data.errors import InputError, NotFoundError
from stal_data.keyframes import AnnotatedKeyFrame, KeyFrame
from stal_data.sealed import seal_file


def with_odd_key_frames(split: Split) -> Split:
    """Add a key frame without people and one without a window whose people have many labels and none."""
    odd = (
        AnnotatedKeyFrame(
            key=KeyFrame("w, ü", 3000), window=None, boxes_N4=np.zeros((0, 4), np.float32), labels=(), persons=()
        ),
        AnnotatedKeyFrame(
            key=KeyFrame("x", 0),
            window=None,
            boxes_N4=np.array([[0, 0, 1 / 3, 1], [0.25, 0, 1, 1]], np.float32),
            labels=(frozenset({2, 1}), frozenset()),
            persons=(-1, 4),
        ),
    )
    return replace(split, key_frames=split.key_frames + odd)


def assert_same(a: PublishedSplit, b: PublishedSplit) -> None:
    assert replace(a, key_frames=()) == replace(b, key_frames=())
    assert len(a.key_frames) == len(b.key_frames)
    for one, other in zip(a.key_frames, b.key_frames, strict=True):
        assert (one.key, one.window, one.labels, one.persons) == (other.key, other.window, other.labels, other.persons)
        assert one.boxes_N4.tobytes() == other.boxes_N4.tobytes()
        assert other.boxes_N4.dtype == np.float32


def split_file(store: Store) -> Path:
    return store.annotations_dir("street", "train") / "split.h5"


def test_a_published_split_reads_back_as_it_was(store: Store, split: Split) -> None:
    published = publish_split(store, with_odd_key_frames(split))
    assert_same(load_split(store, "street", "train"), published)


def test_a_split_without_annotations_has_no_label_map(store: Store, split: Split) -> None:
    publish_split(store, replace(split, annotated=False, label_map=None, exclusions=frozenset()))
    loaded = load_split(store, "street", "train")
    assert (loaded.annotated, loaded.label_map, loaded.exclusions) == (False, None, frozenset())


def test_the_same_content_is_not_written_again(store: Store, split: Split) -> None:
    publish_split(store, split)
    before = split_file(store).stat()
    publish_split(store, split)
    after = split_file(store).stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_new_annotations_replace_the_old_ones(store: Store, split: Split) -> None:
    first = publish_split(store, split)
    publish_split(store, replace(split, key_frames=split.key_frames[:2]))
    second = load_split(store, "street", "train")
    assert len(second.key_frames) == 2
    assert second.digest != first.digest


def _move_a_box(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        file["boxes_N4"][0, 0] += 0.01


def _zero(path: Path, begin: int, end: int) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:begin] + bytes(len(content[begin:end])) + content[end:])


@pytest.mark.parametrize(
    "damage",
    [
        _move_a_box,
        lambda path: path.write_bytes(path.read_bytes()[:100]),
        lambda path: path.write_bytes(path.read_bytes()[:-1]),
        lambda path: path.write_bytes(b""),
        lambda path: _zero(path, 0, 512),  # the checksum
        lambda path: _zero(path, 0, 4096),  # the checksum, and what HDF5 begins with
        lambda path: _zero(path, 1024, 1536),
    ],
)
def test_damage_is_noticed_and_publishing_again_mends_it(
    store: Store, split: Split, damage: Callable[[Path], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    published = publish_split(store, split)
    damage(split_file(store))
    with monkeypatch.context() as patch:
        patch.setattr(h5py.File, "__init__", None)  # on damaged files it may not return
        with pytest.raises(InputError, match=r"split.h5' is damaged.* Publish the split again"):
            load_split(store, "street", "train")
    publish_split(store, split)
    assert_same(load_split(store, "street", "train"), published)


def test_a_file_without_a_checksum_is_refused_and_publishing_again_mends_it(store: Store, split: Split) -> None:
    published = publish_split(store, split)
    split_file(store).write_bytes(split_file(store).read_bytes()[512:])  # as earlier versions wrote it
    with pytest.raises(InputError, match=r"carries no checksum.*cache verify STORE --repair"):
        load_split(store, "street", "train")
    publish_split(store, split)
    assert_same(load_split(store, "street", "train"), published)


def test_content_in_other_files_is_not_read(store: Store, split: Split, tmp_path: Path) -> None:
    publish_split(store, split)
    with h5py.File(tmp_path / "other.h5", "w") as other:
        other["labels"] = np.zeros(3, np.int64)
    with h5py.File(split_file(store), "r+") as file:
        del file["labels"]
        file["labels"] = h5py.ExternalLink(tmp_path / "other.h5", "/labels")
    seal_file(split_file(store))
    with pytest.raises(InputError, match="lacks the dataset 'labels'"):
        load_split(store, "street", "train")


def test_an_unpublished_split_says_what_there_is(store: Store, split: Split) -> None:
    publish_split(store, split)
    with pytest.raises(NotFoundError, match=r"street/trian is not published .* Did you mean 'street/train'"):
        load_split(store, "street", "trian")


def test_how_often_a_row_occurs_is_kept_and_older_files_do_not_say_it(store: Store, split: Split) -> None:
    publish_split(store, split)
    assert {item.row_counts for item in load_split(store, "street", "train").key_frames} == {None}
    counted = tuple(
        replace(item, row_counts=tuple(tuple(range(len(labels))) for labels in item.labels))
        for item in with_odd_key_frames(split).key_frames
    )
    published = publish_split(store, replace(split, key_frames=counted))
    loaded = load_split(store, "street", "train")
    assert [item.row_counts for item in loaded.key_frames] == [item.row_counts for item in counted]
    assert loaded.digest == published.digest
    assert loaded.digest != publish_split(store, split).digest
