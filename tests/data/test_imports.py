"""Files of annotation tools become data sets with the same people, and go back."""

import json
import pickle
from pathlib import Path
from typing import cast

import numpy as np
import pytest
from hypothesis import given, settings
from PIL import Image

from stal_data.dataset import Dataset
from stal_data.errors import StalError
from stal_data.formats.sources import Reading, Source
from stal_data.formats.tool_formats import TOOL_FORMATS, recognised
from stal_data.imports.media import ImportedMedia
from stal_data.imports.run import ImportOptions, import_files
from tests.data.imported import expected, import_into, rows, run_dataset, scenes
from tests.data.tool_files import (
    ACTIONS,
    HEIGHT,
    SCENE,
    WIDTH,
    WRITERS,
    Scene,
    label_map_text,
    write_coco,
    write_cvat_tracks,
    write_label_studio,
    write_via,
    write_yolo,
)
from tests.data.videos import number_of, numbered_picture

ANONYMOUS = ("cvat", "label_studio", "tubes")
"""Writers of the tests that give each box a track of its own."""
WITHOUT_EMPTY = ("via", "tubes")


@pytest.mark.parametrize("name", WRITERS)
@settings(max_examples=15)
@given(scene=scenes())
def test_a_scene_in_the_form_of_any_tool_becomes_its_rows(
    name: str, scene: Scene, videos: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("scene")
    if name == "cvat":
        scene = dict([next(iter(scene.items()))])
    opened = import_into(folder / "out", [WRITERS[name](folder, scene)], videos)
    form = {"persons": name not in ANONYMOUS, "empty": name not in WITHOUT_EMPTY}
    assert rows(opened, **form) == expected(scene, **form)


@pytest.mark.parametrize("target", ["ava", "coco", "cvat", "label_studio"])
@settings(max_examples=15)
@given(scene=scenes())
def test_a_data_set_written_for_a_tool_and_imported_again_has_the_same_rows(
    target: str, scene: Scene, videos: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("scene")
    thirds = {  # no whole pixels
        video: {
            second: [(p, tuple(side / 3 for side in box), names) for p, box, names in people]
            for second, people in seconds.items()
        }
        for video, seconds in scene.items()
    }
    scene = cast(Scene, thirds)
    first = import_into(folder / "first", [WRITERS["ava"](folder, scene)], videos)
    done = run_dataset("convert", first.root, "--split", "all", "--to", target, "--output", folder / "written")
    assert done.exit_code == 0, done.output
    written = sorted((folder / "written").iterdir()) if target == "cvat" else [folder / "written"]
    # In Label Studio regions have no id of the person, and the whole video belongs to the task.
    form = {"persons": target != "label_studio", "empty": target != "label_studio"}
    assert (
        rows(import_into(folder / "second", written, videos), **form) == rows(first, **form) == expected(scene, **form)
    )


def test_written_for_cvat_people_move_between_key_frames_and_are_gone_at_the_first_without_them(
    tmp_path: Path, videos: Path
) -> None:
    first = import_into(tmp_path / "first", [WRITERS["ava"](tmp_path, SCENE)], videos)
    done = run_dataset("convert", first.root, "--split", "all", "--to", "cvat", "--output", tmp_path / "written")
    assert done.exit_code == 0, done.output
    finer = import_into(tmp_path / "second", [tmp_path / "written" / "street.xml"], videos, every_ms=500)
    found = {row[:3]: row[3][0] for row in rows(finer) if len(row) > 2}
    assert found["street", 500, 1] == np.float32(15.2 / WIDTH)  # at frame 13
    assert ("street", 500, 2) in found
    assert ("street", 1000, 2) not in found


@pytest.mark.parametrize("name", WRITERS)
def test_each_format_is_recognised_by_its_content_alone(name: str, tmp_path: Path) -> None:
    path = WRITERS[name](tmp_path, SCENE)
    if path.is_file():
        path = path.rename(tmp_path / "export.dat")
    source = Source(path)
    assert recognised(source).name == name
    assert [item.name for item in TOOL_FORMATS.values() if item.lacks(source) is None] == [name]


@pytest.mark.parametrize(
    "content", [b"", b"PK\x03\x04....", b'{"a": 1}', b"<svg/>", b"street,1,0.1\n", b"\x80\x02]q\x00."]
)
def test_what_is_in_no_format_is_refused_with_what_each_misses(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(content)
    done = run_dataset("import", tmp_path / "file", "--output", tmp_path / "out", "--name", "own")
    assert isinstance(done.exception, StalError)
    assert all(f"\n  {name}: " in str(done.exception) for name in TOOL_FORMATS)
    assert not (tmp_path / "out").exists()


def test_a_tool_s_file_becomes_a_data_set_that_validates(tmp_path: Path, videos: Path) -> None:
    path = WRITERS["cvat"](tmp_path, SCENE)
    out = tmp_path / "out"
    done = run_dataset("import", path, "--videos", videos, "--output", out, "--name", "own", "--split", "train")
    assert done.exit_code == 0, done.output
    assert f"{path}: cvat, 1 videos, 4 tracks, 4 boxes" in done.stdout
    assert "Split train: 1 videos, 4 key frames (1 without people, 0 excluded), 4 boxes, 5 actions" in done.stdout
    assert (out / "label_map.pbtxt").read_text().count("label_id") == 3
    assert json.loads((out / "import_report.json").read_text())["splits"][0]["boxes"] == 4
    done = run_dataset("validate", out, "--decode")
    assert done.exit_code == 0, done.output
    assert run_dataset("import", path, "--videos", videos, "--output", out, "--name", "own").exit_code == 1


def _box(frame: int, x1: float, *, outside: int = 0, keyframe: int = 1, actions: tuple[str, ...] = ("walk",)) -> str:
    ticks = "".join(f'<attribute name="{name}">{str(name in actions).lower()}</attribute>' for name in ACTIONS)
    return (
        f'<box frame="{frame}" outside="{outside}" occluded="0" keyframe="{keyframe}" xtl="{x1}" ytl="8" '
        f'xbr="{x1 + 8}" ybr="40" z_order="0">{ticks}</box>'
    )


def test_a_track_moves_between_its_key_frames_and_ends_where_the_person_is_outside(
    tmp_path: Path, videos: Path
) -> None:
    boxes = _box(10, 0) + _box(60, 40, actions=("stand",)) + _box(85, 60, outside=1) + _box(100, 8)
    path = write_cvat_tracks(tmp_path / "a.xml", f'<track id="3" label="person">{boxes}</track>', size=125)
    opened = import_into(tmp_path / "out", [path], videos)
    # At frame 25 three tenths of the way; at 75 on the way to where the person is outside.
    assert rows(opened) == {
        ("street", 0),
        *{("street", 1000, 3, _relative(12), "walk"), ("street", 2000, 3, _relative(32), "walk")},
        *{("street", 3000, 3, _relative(52), "stand"), ("street", 4000, 3, _relative(8), "walk")},
    }
    report = json.loads((tmp_path / "out" / "import_report.json").read_text())
    assert (report["interpolated"], report["dropped"]) == (3, {"drawn boxes between key frames": 2})
    annotated = import_into(tmp_path / "annotated", [path], videos, every_ms=0)
    assert {row[1] for row in rows(annotated)} == {400, 2400, 4000}


def _relative(x1: float) -> tuple[float, ...]:
    return tuple(np.float32([x1 / WIDTH, 8 / HEIGHT, (x1 + 8) / WIDTH, 40 / HEIGHT]).tolist())


def test_jobs_of_a_task_are_joined_where_they_overlap_and_other_people_get_new_ids(
    tmp_path: Path, videos: Path
) -> None:
    first = f'<track id="0" label="person">{_box(0, 0)}{_box(25, 8)}{_box(26, 8, outside=1)}</track>'
    second = f'<track id="5" label="person">{_box(25, 8)}{_box(50, 16)}</track>'
    second += f'<track id="0" label="person">{_box(50, 64)}</track>'
    jobs = [
        write_cvat_tracks(tmp_path / "job1.xml", first, size=26),
        write_cvat_tracks(tmp_path / "job2.xml", second, size=26, start=25),
    ]
    opened = import_into(tmp_path / "out", jobs, videos)
    assert {(row[1], row[2], row[3]) for row in rows(opened)} == {
        *{(0, 0, _relative(0)), (1000, 0, _relative(8)), (2000, 0, _relative(16)), (2000, 1, _relative(64))}
    }
    report = json.loads((tmp_path / "out" / "import_report.json").read_text())
    assert (report["merged"], report["renumbered"], len(report["files"])) == (1, 1, 2)


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


def test_boxes_are_cut_at_the_picture_s_edge_and_left_out_beyond_it(tmp_path: Path, videos: Path) -> None:
    scene: Scene = {"street": {0: [(1, (-8, 0, 8, 99), ("walk",)), (2, (80, 0, 90, 9), ("walk",))]}}
    opened = import_into(tmp_path / "out", [write_coco(tmp_path, scene)], videos)
    assert rows(opened) == {("street", 0, 1, tuple(np.float32([0, 0, 0.1, 1]).tolist()), "walk")}
    report = json.loads((tmp_path / "out" / "import_report.json").read_text())
    assert (report["clipped"], report["dropped"]) == (1, {"boxes outside the picture": 1})


def test_coarser_key_frames_drop_images_between_them(tmp_path: Path, videos: Path) -> None:
    opened = import_into(tmp_path / "out", [write_yolo(tmp_path, SCENE)], videos, every_ms=2000)
    assert {row[:2] for row in rows(opened)} == {("street", 0), ("street", 2000), ("yard", 0)}
    report = json.loads((tmp_path / "out" / "import_report.json").read_text())
    assert report["dropped"] == {"annotated images between key frames": 2}


def test_images_in_folders_are_counted_from_their_first_one(tmp_path: Path) -> None:
    (tmp_path / "frames" / "street").mkdir(parents=True)
    for number in range(30):
        image = Image.fromarray(numbered_picture(number))
        image.save(tmp_path / "frames" / "street" / f"img_{number:05d}.png")
    scene: Scene = {"street": {0: [(1, (0, 0, 8, 24), ("walk",))], 1: [(1, (8, 0, 16, 24), ("walk",))]}}
    path = write_coco(tmp_path, scene)
    path.write_text(path.read_text().replace("/000001.png", "/img_00000.png").replace("/000026.png", "/img_00010.png"))
    words = ["--frames", tmp_path / "frames", "--pattern", "{video}/img_{frame:05d}.png", "--fps", "10"]
    done = run_dataset("import", path, *words, "--first-frame", "0", "--output", tmp_path / "out", "--name", "own")
    assert done.exit_code == 0, done.output
    assert {row[:2] for row in rows(Dataset.open(tmp_path / "out"))} == {("street", 0), ("street", 1000)}
    assert run_dataset("validate", tmp_path / "out", "--decode").exit_code == 0
    media = Dataset.open(tmp_path / "out").media
    assert number_of(media.read("street", [26])[0]) == 10
    assert (
        run_dataset("import", path, *words, "--every", "0.0004", "--output", tmp_path / "b", "--name", "own").exit_code
        == 2
    )


def test_ava_kinetics_rows_move_to_the_clock_of_their_clips(tmp_path: Path, videos: Path) -> None:
    clips = tmp_path / "clips"
    clips.mkdir()
    (clips / "abc_000010_000020.mp4").symlink_to(videos / "street.mp4")
    (clips / "movie.mp4").symlink_to(videos / "street.mp4")
    path = tmp_path / "kinetics.csv"
    path.write_text("abc,12.5,0.1,0.2,0.3,0.4,2,0\nmovie,902,0.1,0.2,0.3,0.4,1,0\n")
    (tmp_path / "starts.csv").write_text("movie,900\n")
    (tmp_path / "labels.pbtxt").write_text(label_map_text())
    words = ["--videos", clips, "--label-map", tmp_path / "labels.pbtxt", "--starts", tmp_path / "starts.csv"]
    done = run_dataset("import", path, *words, "--output", tmp_path / "out", "--name", "own")
    assert done.exit_code == 0, done.output
    assert {row[:2] for row in rows(Dataset.open(tmp_path / "out"))} == {("abc_000010_000020", 2500), ("movie", 2000)}


def test_actions_that_the_label_map_lacks_are_an_error_or_dropped_and_counted(tmp_path: Path, videos: Path) -> None:
    path = WRITERS["coco"](tmp_path, SCENE)
    (tmp_path / "few.pbtxt").write_text('label { name: "stand" label_id: 4 }\nlabel { name: "walks" label_id: 7 }\n')
    words = ["import", path, "--fps", "25", "--label-map", tmp_path / "few.pbtxt", "--name", "own"]
    done = run_dataset(*words, "--output", tmp_path / "a")
    assert "lacks actions of the files: 'walk'" in str(done.exception)
    assert "Did you mean 'walks'?" in str(done.exception)
    done = run_dataset(*words, "--output", tmp_path / "b", "--unknown-labels", "drop", "--videos", videos)
    assert "Dropped: 2 actions 'walk', which the label map lacks" in done.stderr
    split = Dataset.open(tmp_path / "b").split("all")
    assert sum(map(len, (item.labels for item in split.key_frames))) == 5  # all people stay


def test_without_media_the_data_set_says_where_they_belong(tmp_path: Path, videos: Path) -> None:
    words = ["import", WRITERS["coco"](tmp_path, SCENE), "--fps", "25", "--output", tmp_path / "out", "--name", "own"]
    assert f"put the videos into {tmp_path / 'out' / 'videos'}" in run_dataset(*words).stderr
    (tmp_path / "out" / "videos").mkdir()
    for path in videos.rglob("*.mp4"):
        (tmp_path / "out" / "videos" / path.name).symlink_to(path)
    assert rows(Dataset.open(tmp_path / "out")) == expected(SCENE)


TRACK = '<track id="0" label="person"><box frame="0" outside="0" xtl="1" ytl="1" xbr="5" ybr="5"/></track>'


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        ("cvat", "<annotations>", "<!DOCTYPE a [<!ENTITY x 'y'>]><annotations>", "a DTD is refused"),
        ("cvat", "utf-8", "x", "is not whole XML: unknown encoding: x"),
        ("cvat", "utf-8", "shift-jis", "is not whole XML: multi-byte encodings are not supported"),
        ("cvat", 'xbr="5"', 'xbr="0"', "track 0, frame 0: the box x1,y1,x2,y2 is 1,1,0,5"),
        ("cvat", 'xbr="5"', 'xbr="nan"', "track 0, frame 0: xbr is 'nan', but must be finite"),
        ("cvat", 'frame="0"', 'frame="0.5"', "frame is '0.5', but must be a whole number"),
        ("cvat", 'frame="0"', 'frame="0" rotation="30.00"', "the box is rotated"),
        ("cvat", "</track>", "", "is not whole XML: mismatched tag: line 2"),
        ("cvat", "</track>", "<a>" * 40 + "</a>" * 40 + "</track>", "nested deeper than 32"),
        ("cvat", "<track id", '<image id="0"/><track id', "image 0 is the image '', but its name must hold"),
        ("cvat", "task>", "project>", "track 0: task_id is '', .*there are: none. Export the task or the project"),
        ("cvat", "<size>76</size>", "<size>999999999</size>", "more than 604800 s"),
        ("coco", '"bbox": [10, 10, 20, 30]', '"bbox": [10, 10, 20]', "annotations.0.bbox"),
        ("coco", '"bbox": [10, 10, 20, 30]', '"bbox": [10, 10, 0, 30]', r"annotations\[0\]: the box x1,y1,x2,y2"),
        ("coco", '"image_id": 1', '"image_id": 99', r"annotations\[0\]: its image_id or category_id"),
        ("coco", "street/000001.png", "street.png", r"images\[0\] is the image 'street.png'"),
        ("coco", "street/000026.png", "street/000001.png", r"images\[1\] is frame 0 of video 'street' once more"),
        ("coco", '"width": 80', '"width": 81', r"images\[1\] is 80x48"),
        ("coco", "}]}", "}]", "is not JSON that can be read: .* at line 1"),
        ("coco", '"images": [', '"images": [' + "[" * 300 + "]" * 300 + ",", "recursion limit"),
        ("label_studio", '"enabled": false', '"enabled": "maybe"', "sequence.0.enabled"),
        ("label_studio", '"rotation": 0', '"rotation": 10', "region r0-1, frame 1 is rotated"),
        ("label_studio", '"frame": 1,', '"frame": 0,', "sequence.0.frame is 0"),
        ("label_studio", '"annotations"', '"drafts"', "export as JSON, not JSON-MIN"),
        ("via", '"z": [0.0]', '"z": []', "metadata 1_0: z is"),
        ("via", '"vid": "1"', '"vid": "8"', "metadata 1_0: vid is '8'"),
        ("via", '"1": "1"', '"1": "9"', "action is '9', but has no option '9'"),
        ("ava", "street,0000,0.125", "street,0000,0.9", "line 1: the box x1,y1,x2,y2"),
        ("ava", "street,0000,0.125", "street,x,0.125", "in line 1 the time is 'x'"),
    ],
)
def test_a_bad_file_is_refused_with_its_place_and_rule(
    name: str, old: str, new: str, message: str, tmp_path: Path, videos: Path
) -> None:
    path = write_cvat_tracks(tmp_path / "a.xml", TRACK) if name == "cvat" else WRITERS[name](tmp_path, SCENE)
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1) if old != "task>" else text.replace(old, new))
    with pytest.raises(StalError, match=message):
        import_into(tmp_path / "out", [path], videos)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("1 0.5 0.5 0.1", "must be: class x y width height"),
        ("9 0.5 0.5 0.1 0.1", "class 9 has no name"),
        ("1 0.5 0.5 0 0.1", "the box x1,y1,x2,y2"),
        ("1 0.5 0.5 0.1 0.1 0.87", "must be a whole number. Is it a confidence"),
        ("1 0.5 0.5 0.1 nan", "column 5 is 'nan', but must be finite"),
        ("1 0.5 0.5 0.1 0.1 -inf", "column 6 is '-inf', but must be finite"),
        ("inf 0.5 0.5 0.1 0.1", "column 1 is 'inf'"),
    ],
)
def test_a_bad_line_of_yolo_is_refused(line: str, message: str, tmp_path: Path, videos: Path) -> None:
    root = write_yolo(tmp_path, SCENE)
    (root / "labels" / "street_000001.txt").write_text("\n" + line)
    with pytest.raises(StalError, match=f"street_000001.txt, line 2.*{message}"):
        import_into(tmp_path / "out", [root], videos)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("labels", [None], "labels.0"),
        ("gttubes", [], "gttubes is"),
        ("resolution", {"sports/street": (48, 80)}, r"gttubes\['sports/yard'\]: the video has no resolution"),
        ("gttubes", {"sports/street": {9: []}}, "there is no class 9, only 0 to 2"),
        ("gttubes", {"sports/street": {0: [[1, 2]]}}, r"\[0\]\[0\] must be an array"),
        ("gttubes", {"sports/street": {0: [np.zeros((2, 4))]}}, r"\[0\]\[0\] must be an array"),
        ("gttubes", {"sports/street": {0: [np.float32([[0, 1, 1, 2, 2]])]}}, "frames must be whole numbers from 1"),
        ("gttubes", {"sports/street": {0: [np.float32([[np.nan, 1, 1, 2, 2]])]}}, "frames must be whole numbers"),
        ("gttubes", {"sports/street": {0: [np.float32([[1, 5, 1, 2, 2]])]}}, "frame 1: the box x1,y1,x2,y2"),
        ("gttubes", {"sports/street": {0: [np.float32([[1, 1, 1, 2, 2]] * 2)]}}, "has two boxes at frame 0"),
        ("train_videos", ["street"], "train_videos.0"),
        ("gttubes", {"sports/street": {}, "street": {}}, "'sports/street' and 'street' would be one video 'street'"),
    ],
)
def test_a_bad_pickle_of_tubes_is_refused(key: str, value: object, message: str, tmp_path: Path, videos: Path) -> None:
    path = WRITERS["tubes"](tmp_path, SCENE)
    path.write_bytes(pickle.dumps(pickle.loads(path.read_bytes()) | {key: value}, protocol=2))
    with pytest.raises(StalError, match=message):
        import_into(tmp_path / "out", [path], videos)


def test_the_splits_of_a_file_become_splits_and_who_is_in_none_is_counted(tmp_path: Path, videos: Path) -> None:
    path = WRITERS["tubes"](tmp_path, SCENE)
    lists = {"train_videos": [["sports/street"], []], "test_videos": [[], ["sports/street"]]}
    path.write_bytes(pickle.dumps(pickle.loads(path.read_bytes()) | lists, protocol=2))
    opened = import_into(tmp_path / "out", [path], videos)
    assert opened.split_names == ("train1", "test2")
    assert json.loads((tmp_path / "out" / "import_report.json").read_text())["dropped"] == {
        "videos in no split of their file": 1
    }


def test_attributes_with_a_choice_are_actions_unless_others_are_named(tmp_path: Path, videos: Path) -> None:
    path = write_cvat_tracks(tmp_path / "a.xml", TRACK.replace("/></track>", ">@</box></track>"), size=1)
    values = {"walk": "true", "wave": "false", "note": "jump", "pose": "__undefined__"}
    filled = "".join(f'<attribute name="{name}">{value}</attribute>' for name, value in values.items())
    path.write_text(path.read_text().replace("@", filled))
    assert {row[4] for row in rows(import_into(tmp_path / "a", [path], videos))} == {"walk"}
    named = Reading(action_attributes=("note", "pose"))
    assert {row[4] for row in rows(import_into(tmp_path / "b", [path], videos, reading=named))} == {"jump"}


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


def test_frame_numbers_need_a_rate_and_pixels_a_size(tmp_path: Path) -> None:
    media = ImportedMedia()
    with pytest.raises(StalError, match="their rate is unknown: give --videos or --fps"):
        import_files([write_yolo(tmp_path, SCENE)], tmp_path / "out", ImportOptions(name="own"), media)
    with pytest.raises(StalError, match="its size is unknown: give --videos or --frames"):
        import_files([write_via(tmp_path, SCENE)], tmp_path / "out", ImportOptions(name="own"), media)
