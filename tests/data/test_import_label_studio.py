"""Files of Label Studio: until when people are seen, and which of several annotations count."""

import json
from pathlib import Path

import pytest

from stal_data.errors import StalError
from tests.data.imported import import_into, rows
from tests.data.tool_files import (
    SCENE,
    write_label_studio,
)


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
