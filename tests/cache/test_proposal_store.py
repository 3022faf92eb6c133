from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cache.proposal_store import (
    DetectorSpec,
    Proposals,
    list_proposals,
    open_proposals,
    read_proposals,
    write_proposals,
)
from cache.store import Store
from cache.tracks import Tracks
from stal_data.errors import InputError, NotFoundError
from stal_data.keyframes import KeyFrame

DETECTOR = DetectorSpec(
    name="yolo-a", weights="sha256:00", height=180, width=320, confidence=0.3, library="ultralytics-8"
)


def make(counts: list[int], *, seed: int = 0) -> Proposals:
    rng = np.random.default_rng(seed)
    corners = np.sort(rng.random((sum(counts), 2, 2), dtype=np.float32), axis=1)
    return Proposals(
        dataset="street",
        split="test",
        key_frames=tuple(KeyFrame("ü", 1000 * second) for second in range(len(counts))),
        offsets_K1=np.cumsum([0, *counts]),
        boxes_N4=corners.reshape(-1, 4),
        scores_N=rng.random(sum(counts), dtype=np.float32),
        detector=DETECTOR,
    )


def make_tracks(num_boxes: int, counts: list[int], *, seed: int = 0) -> Tracks:
    """counts: boxes of the frames between key frames."""
    rng = np.random.default_rng(seed)
    between = make(counts, seed=seed + 1)
    return Tracks(
        tracker="toy, 5 frames a second",
        ids_N=rng.permutation(num_boxes) + 1,
        frames=tuple(("ü", 3 + 5 * place) for place in range(len(counts))),
        offsets_M1=between.offsets_K1,
        boxes_P4=between.boxes_N4,
        scores_P=between.scores_N,
        ids_P=np.where(rng.random(sum(counts)) < 0.5, -1, 7),
    )


@settings(max_examples=25)
@given(counts=st.lists(st.integers(0, 4), max_size=6), seed=st.integers(0, 9))
def test_proposals_read_back_as_they_were(
    tmp_path_factory: pytest.TempPathFactory, counts: list[int], seed: int
) -> None:
    store = Store.open(tmp_path_factory.mktemp("store"))
    written = make(counts, seed=seed)
    read = read_proposals(write_proposals(store, written))
    assert (read.dataset, read.split, read.key_frames, read.detector) == (
        "street",
        "test",
        written.key_frames,
        DETECTOR,
    )
    for key, count in zip(written.key_frames, counts, strict=True):
        boxes, scores = read.of(key)
        assert boxes.shape == (count, 4)
        assert (boxes == written.of(key)[0]).all()
        assert (scores == written.of(key)[1]).all()


@settings(max_examples=15)
@given(counts=st.lists(st.integers(0, 3), max_size=4), between=st.lists(st.integers(0, 3), max_size=4))
def test_tracks_read_back_as_they_were(
    tmp_path_factory: pytest.TempPathFactory, counts: list[int], between: list[int]
) -> None:
    plain = make(counts)
    written = replace(plain, tracks=make_tracks(sum(counts), between))
    read = read_proposals(write_proposals(Store.open(tmp_path_factory.mktemp("store")), written))
    assert read.tracks is not None
    assert written.tracks is not None
    assert (read.tracks.tracker, read.tracks.frames) == (written.tracks.tracker, written.tracks.frames)
    for name in ("ids_N", "offsets_M1", "boxes_P4", "scores_P", "ids_P"):
        np.testing.assert_array_equal(getattr(read.tracks, name), getattr(written.tracks, name))
    ids = [read.track_ids_of(key) for key in read.key_frames]
    assert [len(item) for item in ids if item is not None] == counts
    assert read.digest == written.digest
    assert (read.digest == plain.digest) == (not sum(counts))


def test_a_file_without_tracks_is_as_ever(store: Store) -> None:
    path = write_proposals(store, make([2, 0]))
    with h5py.File(path) as file:
        assert sorted(file) == ["boxes", "key_frames", "offsets", "scores"]
    read = read_proposals(path)
    assert read.tracks is None
    assert read.track_ids_of(read.key_frames[0]) is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ids_N": np.array([1])}, "There are 2 boxes and 1 track ids"),
        ({"ids_N": np.array([1, 0])}, "Track id 0 must be from 1, or -1"),
        ({"ids_P": np.array([1, -2])}, "Track id -2 must be from 1, or -1"),
        ({"frames": (("ü", 3), ("ü", 3))}, "sorted frames"),
        ({"frames": (("ü", 0), ("ü", 3))}, "numbered from 1"),
        ({"offsets_M1": np.array([0, 2, 1])}, "rise from 0"),
        ({"boxes_P4": np.full((2, 4), 1.5, np.float32)}, "of frame ü, frame 3 is outside"),
    ],
)
def test_bad_tracks_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        replace(make([1, 1]), tracks=replace(make_tracks(2, [1, 1]), **change))


def test_an_unknown_confidence_stays_unknown(store: Store) -> None:
    written = replace(make([2]), scores_N=np.array([0.5, np.nan], np.float32))
    read = read_proposals(write_proposals(store, written))
    np.testing.assert_array_equal(read.scores_N, written.scores_N)


@pytest.mark.parametrize(
    ("box", "score", "message"),
    [
        ([0.5, 0, 0.4, 1], 0.5, "outside .* or inverted"),
        ([0, 0, 1.01, 1], 0.5, "outside .* or inverted"),
        ([0, np.nan, 1, 1], 0.5, "outside .* or inverted"),
        ([0, 0, 1, 1], 1.5, "Score 1.5 of key frame ü,0001"),
    ],
)
def test_values_out_of_range_are_refused(box: list[float], score: float, message: str) -> None:
    good = make([1, 1])
    boxes, scores = good.boxes_N4.copy(), good.scores_N.copy()
    boxes[1], scores[1] = box, score
    with pytest.raises(InputError, match=message):
        replace(good, boxes_N4=boxes, scores_N=scores)


def test_offsets_must_fit_the_boxes() -> None:
    with pytest.raises(InputError, match="rise from 0"):
        replace(make([2, 1]), offsets_K1=np.array([0, 3, 2]))
    with pytest.raises(InputError, match="sorted"):
        replace(make([2, 1]), key_frames=(KeyFrame("b", 0), KeyFrame("a", 0)))


def test_a_key_frame_the_detector_never_saw_is_an_error_not_an_empty_list() -> None:
    with pytest.raises(NotFoundError, match="ü,0007 is not among the 2"):
        make([1, 0]).of(KeyFrame("ü", 7000))


def test_proposals_are_found_by_name_or_when_they_are_the_only_ones(store: Store) -> None:
    with pytest.raises(NotFoundError, match="stal-cli detect"):
        open_proposals(store, "street", "test")
    write_proposals(store, make([1]))
    assert open_proposals(store, "street", "test").detector == DETECTOR
    write_proposals(store, replace(make([3]), detector=replace(DETECTOR, name="yolo-b")))
    with pytest.raises(InputError, match="yolo-a, yolo-b; name the one"):
        open_proposals(store, "street", "test")
    assert len(open_proposals(store, "street", "test", "yolo-b").boxes_N4) == 3
    with pytest.raises(NotFoundError, match="Did you mean 'yolo-b'"):
        open_proposals(store, "street", "test", "yolo-bb")
    assert [info.name for info in list_proposals(store)] == ["yolo-a", "yolo-b"]


def test_a_damaged_or_foreign_file_is_an_error_that_names_it(store: Store, tmp_path: Path) -> None:
    path = write_proposals(store, make([50, 50]))
    content = bytearray(path.read_bytes())
    place = content.find(make([50, 50]).boxes_N4.tobytes())
    content[place + 5] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"yolo-a\.h5"):
        read_proposals(path)
    foreign = tmp_path / "x.h5"
    foreign.write_bytes(b"no HDF5")
    with pytest.raises(InputError, match=r"x\.h5"):
        read_proposals(foreign)
    with pytest.raises(NotFoundError, match=r"y\.h5"):
        read_proposals(tmp_path / "y.h5")


def test_writing_again_replaces_the_file(store: Store) -> None:
    write_proposals(store, make([1]))
    path = write_proposals(store, make([4]))
    assert len(read_proposals(path).boxes_N4) == 4
    assert list(path.parent.iterdir()) == [path]
