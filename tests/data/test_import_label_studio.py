"""Files of Label Studio: until when people are seen, and which of several annotations count."""

import json
from pathlib import Path

import numpy as np
import pytest

from stal_data.dataset import Dataset
from stal_data.errors import StalError
from tests.data.imported import import_into, rows, run_dataset
from tests.data.tool_files import SCENE, write_label_studio

EXPORTED = Path(__file__).parent / "fixtures" / "label_studio_1.23.2.json"


def test_label_studio_shows_a_person_from_key_frame_to_key_frame_until_it_is_disabled(
    tmp_path: Path, videos: Path
) -> None:
    path = write_label_studio(tmp_path, {"street": {0: [(1, (0, 0, 8, 24), ("walk",))], 4: []}})
    tasks = json.loads(path.read_text())
    value = tasks[0]["annotations"][0]["result"][0]["value"]
    start = value["sequence"][0]
    value["sequence"] = [start | {"enabled": True}, start | {"frame": 51, "time": 51 / 25, "x": 50, "enabled": False}]
    path.write_text(json.dumps(tasks))
    found = rows(import_into(tmp_path / "out", [path], videos), persons=False)
    assert {row[1]: row[3][0] for row in found if len(row) > 2} == {0: 0, 1000: 0.25, 2000: 0.5}
    assert {row for row in found if len(row) == 2} == {("street", 3000), ("street", 4000)}


def test_what_label_studio_itself_exported_is_read(tmp_path: Path) -> None:
    done = run_dataset("import", EXPORTED, "--output", tmp_path / "own", "--name", "own")
    assert done.exit_code == 0, done.output
    (tmp_path / "own" / "videos").mkdir()
    found = rows(Dataset.open(tmp_path / "own"), empty=False)
    # What `dataset suggest people` had written for it: four people in three key frames, each with one action.
    assert {(time_ms, person, action) for _, time_ms, person, _, action in found} == {
        (1000 * second, person, action)
        for second in (2, 3, 4)
        for person, action in enumerate(("crouch", "punch", "wave", "stand"), start=1)
    }
    left_edges = [box[0] for _, _, _, box, action in sorted(found) if action == "stand"]
    np.testing.assert_allclose(left_edges, [0.396875, 0.50625, 0.60625], rtol=1e-6)


def test_of_several_annotations_of_a_task_one_must_be_marked(tmp_path: Path, videos: Path) -> None:
    path = write_label_studio(tmp_path, {"street": SCENE["street"]})
    tasks = json.loads(path.read_text())
    tasks[0]["annotations"] *= 2
    path.write_text(json.dumps(tasks))
    with pytest.raises(StalError, match=r"task \[0\] has 2 annotations, but may have one"):
        import_into(tmp_path / "out", [path], videos)
    tasks[0]["annotations"][0] = tasks[0]["annotations"][0] | {"ground_truth": True}
    tasks.append({"data": {"video": "b.mp4"}, "annotations": []})
    path.write_text(json.dumps(tasks))
    import_into(tmp_path / "out", [path], videos)
    report = json.loads((tmp_path / "out" / "import_report.json").read_text())
    assert report["dropped"] == {"tasks without an annotation": 1}


def test_predictions_of_label_studio_count_only_in_tasks_that_nobody_could_annotate(
    tmp_path: Path, videos: Path
) -> None:
    path = write_label_studio(tmp_path, SCENE)
    expected = rows(import_into(tmp_path / "first", [path], videos))
    tasks = json.loads(path.read_text())
    predicted = [{"data": task["data"], "predictions": task["annotations"]} for task in tasks]
    path.write_text(json.dumps(predicted))
    assert rows(import_into(tmp_path / "second", [path], videos)) == expected
    path.write_text(json.dumps([{**task, "annotations": []} for task in predicted]))
    with pytest.raises(StalError, match="only 2 tasks without an annotation"):
        import_into(tmp_path / "third", [path], videos)
