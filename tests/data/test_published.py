"""Published ground-truth pickles become a data set: no row is lost on the way, and bad values are named."""

import copy
import json
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from cli.commands.dataset import dataset
from stal_data.dataset import Dataset
from stal_data.errors import ConflictError, InputError
from stal_data.keyframes import KeyFrame
from stal_data.published.annotations import import_annotations
from stal_data.published.elements import read_published
from tests.data.published_pickles import (
    LABELS,
    annotation_elements,
    detection_elements,
    write_csv,
    write_pickle,
)


@pytest.fixture
def frames(tmp_path: Path) -> Path:
    folder = tmp_path / "frames"
    for video in "ab":
        (folder / video).mkdir(parents=True)
    return folder


def test_a_pickle_becomes_a_data_set_with_a_report(tmp_path: Path, frames: Path) -> None:
    path = write_pickle(tmp_path / "train.pkl", annotation_elements(), protocol=3)
    output = tmp_path / "data"
    words = ["import-published", "--split", f"train={path}", "--output", str(output), "--name", "cw"]
    done = CliRunner().invoke(dataset, [*words, "--frames", str(frames), "--csv", f"train={write_csv(tmp_path / 'c')}"])
    assert done.exit_code == 0, done.output
    assert "Split train: 5 elements, 3 key frames, 2 duplicates merged; 4 people, 5 rows of which 1" in done.output
    assert "Lost: line 1, b,0001, box 0.1,0.2,0.3,0.4, label 0 (from 0)." in done.output
    (report,) = json.loads((output / "import.json").read_text())
    assert report["lost_rows"] == [
        {"line": 1, "video": "b", "time_s": 1, "box": [0.1, 0.2, 0.3, 0.4], "label": 0, "person": 1}
    ]
    expected = {"elements": 5, "key_frames": 3, "duplicates_merged": 2, "repeated_rows": 1, "rows_not_in_csv": 0}
    assert expected.items() <= report.items()

    split = Dataset.open(output).split("train")
    assert [item.key for item in split.key_frames] == [KeyFrame("a", 2000), KeyFrame("b", 1000), KeyFrame("b", 2000)]
    first, second, third = split.key_frames
    np.testing.assert_array_equal(first.boxes_N4, np.float32([[1 / 3, 0.25, 0.9, 1]]))
    assert (first.window, second.window) == ((26, 76), (1, 76))
    assert second.labels == (frozenset({3}), frozenset({2}))
    assert second.persons == (1, 2)
    # The file has lost its first row already: no other one is taken away.
    assert (second.row_counts, third.row_counts) == (((1,), (1,)), ((2,),))
    assert split.label_map is not None
    assert split.label_map.names == ("stand", "walk", "wave")
    # The rows are those of the source, to the last digit.
    source = [line.split(",") for line in (tmp_path / "c").read_text().splitlines()[1:]]
    written = [line.split(",") for line in (output / "train.csv").read_text().splitlines()]
    assert [row[:10] for row in written] == [row[:10] for row in source]


def test_the_csv_itself_gives_the_same_layout_less_its_first_row(tmp_path: Path, frames: Path) -> None:
    path = write_pickle(tmp_path / "train.pkl", annotation_elements())
    import_annotations(tmp_path / "data", "cw", {"train": path}, frames=str(frames))
    imported = Dataset.open(tmp_path / "data").split("train").key_frames
    write_csv(tmp_path / "data" / "train.csv")
    spec = (tmp_path / "data" / "dataset.yaml").read_text()
    assert "first_row: lost" in spec
    (tmp_path / "data" / "dataset.yaml").write_text(spec.replace("first_row: lost", "first_row: present"))
    whole = Dataset.open(tmp_path / "data").split("train").key_frames
    assert whole[1].labels == (frozenset({1, 3}), frozenset({2}))
    assert whole[1].row_counts == ((0, 1), (1,))

    def clips(items: Any) -> list[tuple[KeyFrame, tuple[float, ...], int, int]]:
        return [
            (item.key, tuple(box.tolist()), label, count)
            for item in items
            for box, labels, counts in zip(item.boxes_N4, item.labels, item.row_counts, strict=True)
            for label, count in zip(sorted(labels), counts, strict=True)
            if count
        ]

    assert clips(whole) == clips(imported)


def test_two_splits_need_one_label_list_and_an_empty_folder(tmp_path: Path) -> None:
    train = write_pickle(tmp_path / "train.pkl", annotation_elements())
    other = write_pickle(tmp_path / "test.pkl", annotation_elements(), [*LABELS, {"name": "sit", "id": 4}])
    with pytest.raises(InputError, match="list other labels"):
        import_annotations(tmp_path / "data", "cw", {"train": train, "test": other}, frames="f")
    assert not (tmp_path / "data" / "dataset.yaml").exists()
    import_annotations(tmp_path / "data", "cw", {"train": train, "test": train}, frames="f")
    with pytest.raises(ConflictError, match="already holds a data set"):
        import_annotations(tmp_path / "data", "cw", {"train": train}, frames="f")


def broken(change: Any) -> list[dict]:
    elements = copy.deepcopy(annotation_elements())
    change(elements[3])
    return elements


def put(name: str, value: object) -> Any:
    return lambda element: element.__setitem__(name, value)


def put_box(name: str, value: object) -> Any:
    return lambda element: element["labels"][0].__setitem__(name, value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (put("video", 7), "element 3: video is 7, but must be text"),
        (put("video", "../a"), "element 3: video is '../a'"),
        (put("time", -1), "element 3: time is -1, but must be a whole number from 0"),
        (put("time", 1.5), "element 3: time is 1.5"),
        (put("time", True), "element 3: time is True"),
        (put("mid_frame", 10**6000), "element 3: mid_frame is a huge int"),
        (put("n_frames", 0), "element 3: n_frames is 0, but must be a whole number from 1"),
        (put("frame_rate", 30), "element 3: frame_rate is 30, but windows are counted at 25"),
        (put("format_str", "b_%05d.jpg"), "element 3: format_str is 'b_%05d.jpg'"),
        (put("labels", None), "element 3: labels is None, but must be a list"),
        (put("labels", []), "element 3: labels is empty"),
        (put("labels", [3]), "element 3, labels[0] is 3, but must be a dict"),
        (lambda element: element.pop("start_frame"), "element 3 has no 'start_frame', only 'video', 'time'"),
        (put_box("bounding_box", [0, 0, 1]), "element 3, labels[0]: bounding_box is [0, 0, 1], but must be four"),
        (put_box("bounding_box", [0, 0, 1, float("nan")]), "element 3, labels[0]: bounding_box"),
        (put_box("bounding_box", [0, 0, 1, 10**400]), "element 3, labels[0]: bounding_box"),
        (put_box("bounding_box", [0, 0, 320, 180]), "must be x1,y1,x2,y2 in [0,1]"),
        (put_box("bounding_box", [0.5, 0, 0.5, 1]), "element 3, labels[0]: bounding_box is 0.5,0,0.5,1, but must have"),
        (put_box("label", [3]), "element 3, labels[0]: label is [3], but labels count from 0"),
        (put_box("label", []), "element 3, labels[0]: label is []"),
        (put_box("person_id", [1, 2]), "element 3, labels[0]: person_id is [1, 2], but must have as many"),
    ],
)
def test_bad_values_are_named_with_element_field_and_rule(tmp_path: Path, change: Any, message: str) -> None:
    path = write_pickle(tmp_path / "bad.pkl", broken(change))
    with pytest.raises(InputError, match=re.escape(message)):
        read_published(path, "annotations")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "holds {}, but must be [elements, labels]"),
        ([[]], "must be [elements, labels]"),
        ([[], LABELS], "the elements are [], but must be a list with at least one"),
        ([annotation_elements(), {}], "the labels are {}, but must be a list"),
        ([annotation_elements(), [{"name": "x", "id": 0}]], "label 0: id is 0, but must be a whole number from 1"),
        ([annotation_elements(), [{"name": "x", "id": 1, "label_type": "A }"}]], "the label_type of 'x' is 'A }'"),
        ([annotation_elements(), LABELS[:1] * 2], "the id 1 is used twice"),
    ],
)
def test_other_content_is_refused(tmp_path: Path, content: object, message: str) -> None:
    path = tmp_path / "bad.pkl"
    path.write_bytes(pickle.dumps(content))
    with pytest.raises(InputError, match=re.escape(message)):
        read_published(path, "annotations")


def test_a_small_file_cannot_claim_endless_rows(tmp_path: Path) -> None:
    one = annotation_elements()[0]
    one["labels"] = one["labels"] * 2000
    path = write_pickle(tmp_path / "bomb.pkl", [one] * 5000)
    assert path.stat().st_size < 30_000
    with pytest.raises(InputError, match="more elements and boxes than it has bytes"):
        read_published(path, "annotations")


def test_annotations_and_detections_are_told_apart(tmp_path: Path) -> None:
    boxes = {("b", 1): [(0.1, 0.2, 0.3, 0.4)], ("b", 2): [], ("a", 2): [(0.0, 0.0, 0.5, 0.5)]}
    with pytest.raises(InputError, match="'stal-cli detect --import'"):
        read_published(write_pickle(tmp_path / "detections.pkl", detection_elements(boxes)), "annotations")
    with pytest.raises(InputError, match="these are annotations"):
        read_published(write_pickle(tmp_path / "train.pkl", annotation_elements()), "detections")
