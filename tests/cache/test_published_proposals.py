"""Published detector pickles become proposals: repeats are merged, an unknown confidence is no sure one."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from cache.proposal_store import open_proposals
from cache.published_proposals import import_proposals
from cache.split_store import load_split
from cache.store import Store
from cli.commands.cache import cache
from cli.commands.detect import detect
from stal_data.dataset import Dataset
from stal_data.errors import InputError
from stal_data.keyframes import KeyFrame
from stal_data.published.annotations import import_annotations
from tests.data.published_pickles import annotation_elements, detection_elements, write_pickle

BOXES = {
    ("b", 1): [(0.1, 0.2, 0.3, 0.4), (0.5, 0.2, 0.75, 0.5)],
    ("b", 2): [],
    ("a", 2): [(0.25, 0.25, 0.25, 1.0)],  # without area, as a detector may cut it at an edge
}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """The data set that the detections belong to."""
    for video in "ab":
        (tmp_path / "frames" / video).mkdir(parents=True)
    path = write_pickle(tmp_path / "test.pkl", annotation_elements())
    import_annotations(tmp_path / "data", "cw", {"test": path}, frames=str(tmp_path / "frames"))
    return tmp_path / "data"


def test_a_detector_pickle_becomes_proposals_of_unknown_confidence(tmp_path: Path, data: Path) -> None:
    path = write_pickle(tmp_path / "d.pkl", detection_elements(BOXES), protocol=2)
    words = [str(data), "--split", "test", "--store", str(tmp_path / "store"), "--import", str(path)]
    done = CliRunner().invoke(detect, [*words, "--name", "published"])
    assert done.exit_code == 0, done.output
    assert "5 elements with 5 boxes, 3 key frames: 2 duplicates merged, 3 boxes kept" in done.output
    store = Store.open(tmp_path / "store")
    found = open_proposals(store, "cw", "test", "published")
    assert {key: len(found.of(key)[0]) for key in found.key_frames} == {
        KeyFrame(video, 1000 * second): len(boxes) for (video, second), boxes in BOXES.items()
    }
    boxes, scores = found.of(KeyFrame("b", 1000))
    np.testing.assert_array_equal(boxes, np.float32(BOXES["b", 1]))
    assert np.isnan(scores).all()
    assert np.isnan(found.scores_N).all()
    assert (found.detector.height, found.detector.width, found.detector.confidence) == (180, 320, 0.3)
    assert found.detector.weights.startswith("unknown")
    report = json.loads((store.proposals_dir("cw", "test") / "published.import.json").read_text())
    assert (report["duplicates_merged"], report["key_frames_with_differing_boxes"]) == (2, 0)
    assert (report["unknown_key_frames"], report["key_frames_without_element"]) == ([], [])
    assert len(load_split(store, "cw", "test").key_frames) == 3
    # The store's own commands read such a file.
    assert "published" in CliRunner().invoke(cache, ["ls", str(store.root)]).output
    checked = CliRunner().invoke(cache, ["verify", str(store.root)])
    assert checked.exit_code == 0
    assert "cw/test/published: proposals are sound" in checked.output


def test_what_does_not_fit_the_split_is_reported_and_nothing_is_dropped_silently(tmp_path: Path, data: Path) -> None:
    elements = detection_elements(BOXES)
    del elements[-1]  # key frame a,0002 has no element
    elements[0]["time"] = 9  # and b,0009 is not in the split
    other = {**BOXES, ("b", 1): [(0.1, 0.2, 0.3, 0.4), (0.6, 0.6, 0.9, 0.9)]}
    elements += detection_elements(other)[:2]  # now b,0001 has elements that disagree
    (data / "excluded.csv").write_text("b,2\n")
    spec = (data / "dataset.yaml").read_text()
    (data / "dataset.yaml").write_text(spec.replace("first_row: lost", "first_row: lost\n    exclusions: excluded.csv"))
    path = write_pickle(tmp_path / "d.pkl", elements)
    split = Dataset.open(data).split("test")
    store = Store.open(tmp_path / "store", create=True)
    _, report = import_proposals([path], split, store, name="p", image_size=(180, 320), confidence=0.3)
    assert report.unknown_key_frames == ("b,0009",)
    assert report.key_frames_without_element == ("a,0002",)
    assert (report.excluded_key_frames, report.key_frames_with_differing_boxes) == (1, 1)
    found = open_proposals(store, "cw", "test", "p")
    assert found.key_frames == (KeyFrame("a", 2000), KeyFrame("b", 1000))
    assert [len(found.of(key)[0]) for key in found.key_frames] == [0, 3]


def test_a_pickle_of_another_split_is_refused(tmp_path: Path, data: Path) -> None:
    elements = detection_elements(BOXES)
    for element in elements:
        element["time"] += 100
    store = Store.open(tmp_path / "store", create=True)
    with pytest.raises(InputError, match="no key frame in common: the first ones are b,0101 and a,0002"):
        import_proposals(
            [write_pickle(tmp_path / "d.pkl", elements)],
            Dataset.open(data).split("test"),
            store,
            name="p",
            image_size=(180, 320),
            confidence=0.3,
        )


@pytest.mark.parametrize("form", ["mmaction2", "ava"])
def test_boxes_of_other_detectors_keep_their_confidence(form: str, tmp_path: Path, data: Path) -> None:
    boxes = {"b,0001": [(0.1, 0.2, 0.3, 0.4, 0.9), (0.5, 0.2, 0.75, 0.5, 0.25)], "a,0002": [(0, 0, 1, 1, 1)]}
    path = tmp_path / "boxes"
    if form == "mmaction2":
        path.write_bytes(pickle.dumps({key: np.array(found) for key, found in boxes.items()}, protocol=2))
    else:
        lines = [f"{key},{','.join(map(str, box))},,{score}" for key, found in boxes.items() for *box, score in found]
        path.write_text("\n".join(lines))
    store = Store.open(tmp_path / "store", create=True)
    split = Dataset.open(data).split("test")
    _, report = import_proposals([path], split, store, name="p", image_size=(180, 320), confidence=0.2)
    assert (report.boxes, report.key_frames, report.key_frames_without_element) == (3, 2, ("b,0002",))
    found, scores = open_proposals(store, "cw", "test", "p").of(KeyFrame("b", 1000))
    np.testing.assert_array_equal(found, np.float32([box[:4] for box in boxes["b,0001"]]))
    np.testing.assert_array_equal(scores, np.float32([0.9, 0.25]))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (pickle.dumps({"b,0001": np.zeros((1, 3))}), "'b,0001' must be an array"),
        (pickle.dumps({"sports/b,0001": np.zeros((1, 5))}), "the video is 'sports/b'"),
        (pickle.dumps({"b": np.zeros((1, 5))}), "the video is ''"),
        (
            pickle.dumps({"b,1": np.array([[0.1, 0.1, 1.2, 0.2, 0.5]])}),
            "the box is 0.1,0.1,1.2,0.2 with confidence 0.5",
        ),
        (pickle.dumps({"b,1": np.array([[0.1, 0.1, np.nan, 0.2, 0.5]])}), "the box is 0.1,0.1,nan,0.2"),
        (b"b,1,0.1,0.1,0.2,0.2,,1.5\n", "line 1: the box is 0.1,0.1,0.2,0.2 with confidence 1.5"),
        (b"b,1,0.1,0.1,0.2,0.2,,x\n", "line 1: confidence is 'x', but must be a number"),
        (b"b,1,0.1\n", "line 1 must have 8 columns"),
    ],
)
def test_bad_boxes_of_other_detectors_are_refused(content: bytes, message: str, tmp_path: Path, data: Path) -> None:
    path = tmp_path / "boxes"
    path.write_bytes(content)
    store = Store.open(tmp_path / "store", create=True)
    split = Dataset.open(data).split("test")
    with pytest.raises(InputError, match=message):
        import_proposals([path], split, store, name="p", image_size=(180, 320), confidence=0.2)
