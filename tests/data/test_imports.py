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
from stal_data.formats.sources import Source
from stal_data.formats.tool_formats import TOOL_FORMATS, recognised
from stal_data.imports.media import ImportedMedia
from stal_data.imports.run import ImportOptions, import_files
from tests.data.imported import expected, import_into, rows, run_dataset, scenes
from tests.data.tool_files import (
    SCENE,
    WRITERS,
    Scene,
    label_map_text,
    write_coco,
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


@pytest.mark.parametrize("name", WRITERS)
def test_each_format_is_recognised_by_its_content_alone(name: str, tmp_path: Path) -> None:
    path = WRITERS[name](tmp_path, SCENE)
    if path.is_file():
        path = path.rename(tmp_path / "export.dat")
    source = Source(path)
    assert recognised(source).name == name
    assert [item.name for item in TOOL_FORMATS.values() if item.lacks(source) is None] == [name]


def test_a_tool_s_file_becomes_a_data_set_that_validates(tmp_path: Path, videos: Path) -> None:
    path = WRITERS["cvat"](tmp_path, SCENE)
    out = tmp_path / "out"
    done = run_dataset("import", path, "--videos", videos, "--output", out, "--name", "own", "--split", "train")
    assert done.exit_code == 0, done.output
    assert "Read 1 file (cvat): 4 tracks, 4 boxes" in done.stdout
    assert "Split train: 1 video, 4 key frames (1 without people, 0 excluded), 4 boxes, 5 actions" in done.stdout
    assert (out / "label_map.pbtxt").read_text().count("label_id") == 3
    assert json.loads((out / "import_report.json").read_text())["splits"][0]["boxes"] == 4
    done = run_dataset("validate", out, "--decode")
    assert done.exit_code == 0, done.output
    assert run_dataset("import", path, "--videos", videos, "--output", out, "--name", "own").exit_code == 1


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
    assert "Dropped: actions 'walk', which the label map lacks (2)." in done.stderr
    split = Dataset.open(tmp_path / "b").split("all")
    assert sum(map(len, (item.labels for item in split.key_frames))) == 5  # all people stay


def test_without_media_the_data_set_says_where_they_belong(tmp_path: Path, videos: Path) -> None:
    words = ["import", WRITERS["coco"](tmp_path, SCENE), "--fps", "25", "--output", tmp_path / "out", "--name", "own"]
    assert f"put the videos into {tmp_path / 'out' / 'videos'}" in run_dataset(*words).stderr
    (tmp_path / "out" / "videos").mkdir()
    for path in videos.rglob("*.mp4"):
        (tmp_path / "out" / "videos" / path.name).symlink_to(path)
    assert rows(Dataset.open(tmp_path / "out")) == expected(SCENE)


def test_the_splits_of_a_file_become_splits_and_who_is_in_none_is_counted(tmp_path: Path, videos: Path) -> None:
    path = WRITERS["tubes"](tmp_path, SCENE)
    lists = {"train_videos": [["sports/street"], []], "test_videos": [[], ["sports/street"]]}
    path.write_bytes(pickle.dumps(pickle.loads(path.read_bytes()) | lists, protocol=2))
    opened = import_into(tmp_path / "out", [path], videos)
    assert opened.split_names == ("train1", "test2")
    assert json.loads((tmp_path / "out" / "import_report.json").read_text())["dropped"] == {
        "videos in no split of their file": 1
    }


def test_frame_numbers_need_a_rate_and_pixels_a_size(tmp_path: Path) -> None:
    media = ImportedMedia()
    with pytest.raises(StalError, match="their rate is unknown: give --videos or --fps"):
        import_files([write_yolo(tmp_path, SCENE)], tmp_path / "out", ImportOptions(name="own"), media)
    with pytest.raises(StalError, match="its size is unknown: give --videos or --frames"):
        import_files([write_via(tmp_path, SCENE)], tmp_path / "out", ImportOptions(name="own"), media)
