"""CVAT for images, exports of projects, and archives: the same people as in CVAT for video of each task."""

import json
import zipfile
from pathlib import Path

import pytest
from hypothesis import given, settings

from stal_data.errors import StalError
from stal_data.formats.sources import Source
from stal_data.formats.tool_formats import recognised
from stal_data.imports.media import ImportedMedia
from stal_data.imports.run import ImportOptions, import_files
from tests.data.imported import expected, import_into, rows, run_dataset, scenes
from tests.data.tool_files import ACTIONS, FPS, HEIGHT, SCENE, WIDTH, Scene

FIELDS = ("name", "mutable", "input_type", "values")


def _labels() -> str:
    texts = [(name, "True", "checkbox", "false") for name in ACTIONS]
    attributes = "".join(
        "<attribute>" + "".join(f"<{f}>{v}</{f}>" for f, v in zip(FIELDS, row, strict=True)) + "</attribute>"
        for row in texts
    )
    return f"<labels><label><name>person</name><attributes>{attributes}</attributes></label></labels>"


def _task(number: int, video: str, seconds: int, subset: str = "", *, source: bool = True) -> str:
    origin = f"<source>{video}.mp4</source>" if source else ""
    return (
        f"<id>{number}</id><name>{video}</name><size>{FPS * seconds + 1}</size><mode>interpolation</mode>"
        f"<subset>{subset}</subset><start_frame>0</start_frame><frame_filter></frame_filter>{origin}"
    )


def _box(box: tuple[int, int, int, int], actions: tuple[str, ...], more: str = "") -> str:
    ticks = "".join(f'<attribute name="{name}">{str(name in actions).lower()}</attribute>' for name in ACTIONS)
    sides = " ".join(f'{side}="{value:.2f}"' for side, value in zip(("xtl", "ytl", "xbr", "ybr"), box, strict=True))
    return f'<box label="person" source="manual" occluded="0" {sides} z_order="0"{more}>{ticks}</box>'


def _document(meta: str, content: str) -> str:
    return f'<?xml version="1.0" encoding="utf-8"?>\n<annotations><meta>{meta}</meta>{content}</annotations>\n'


def _images(seconds: dict, name: str = "frame_{:06d}", more: str = "") -> str:
    return "".join(
        f'<image id="{number}" name="{name.format(FPS * second)}"{more} width="{WIDTH}" height="{HEIGHT}">'
        + "".join(_box(box, actions) for _, box, actions in people)
        + "</image>"
        for number, (second, people) in enumerate(seconds.items())
    )


def _tracks(seconds: dict, more: str, first: int) -> str:
    boxes = [(second, person) for second, people in seconds.items() for person in people]
    return "".join(
        f'<track id="{first + number}" label="person" source="manual"{more}>'
        + _box(box, actions, f' frame="{FPS * second}" outside="0" keyframe="1"')
        + _box(box, actions, f' frame="{FPS * second + 1}" outside="1" keyframe="1"')
        + "</track>"
        for number, (second, (_, box, actions)) in enumerate(boxes)
    )


def write_project(path: Path, scene: Scene, *, images: bool, subsets: dict[str, str] | None = None) -> Path:
    tasks, content = "", ""
    for number, (video, seconds) in enumerate(scene.items(), 11):
        subset = (subsets or {}).get(video, "")
        tasks += f"<task>{_task(number, video, max(seconds), subset)}</task>"
        more = f' task_id="{number}" subset="{subset or "default"}"'
        content += _images(seconds, more=more) if images else _tracks(seconds, more, 1000 * number)
    project = f"<project><id>3</id><name>all</name><tasks>{tasks}</tasks>{_labels()}</project>"
    path.write_text(_document(project, content))
    return path


def write_task(path: Path, video: str, seconds: dict, **names: str) -> Path:
    path.write_text(_document(f"<task>{_task(1, video, max(seconds))}{_labels()}</task>", _images(seconds, **names)))
    return path


@pytest.mark.parametrize("images", [True, False], ids=["images", "video"])
@pytest.mark.parametrize("zipped", [False, True], ids=["XML", "zip"])
@settings(max_examples=10)
@given(scene=scenes())
def test_a_project_has_the_rows_of_its_tasks(
    images: bool, zipped: bool, scene: Scene, videos: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("scene")
    path = write_project(folder / "annotations.xml", scene, images=images)
    if zipped:
        with zipfile.ZipFile(folder / "export.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            archive.write(path, "annotations.xml")
            archive.writestr("images/frame_000000.png", b"no picture")
        path = folder / "export.zip"
    assert recognised(Source(path)).name == "cvat"
    opened = import_into(folder / "out", [path], videos)
    assert rows(opened, persons=False) == expected(scene, persons=False)


def test_an_archive_may_hold_several_tasks(tmp_path: Path, videos: Path) -> None:
    with zipfile.ZipFile(tmp_path / "tasks.zip", "w") as archive:
        for video, seconds in SCENE.items():
            archive.write(write_task(tmp_path / "a.xml", video, seconds), f"../{video}/annotations.xml")
    opened = import_into(tmp_path / "out", [tmp_path / "tasks.zip"], videos)
    assert rows(opened, persons=False) == expected(SCENE, persons=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.xml", "out", "tasks.zip"]  # nothing is unpacked


def test_the_subsets_of_a_project_are_splits(tmp_path: Path, videos: Path) -> None:
    path = write_project(tmp_path / "a.xml", SCENE, images=True, subsets={"street": "Train"})
    opened = import_into(tmp_path / "out", [path], videos, split="rest")
    assert {name: {item.key.video for item in opened.split(name).key_frames} for name in opened.split_names} == {
        "Train": {"street"},
        "rest": {"yard"},
    }


def test_images_that_are_files_are_named_by_video_and_frame(tmp_path: Path, videos: Path) -> None:
    seconds = SCENE["street"]
    path = write_task(tmp_path / "a.xml", "any", seconds, name="frames/street_{:06d}.png")
    done = run_dataset(
        *("import", path, "--videos", videos, "--first-frame", "0", "--output", tmp_path / "out", "--name", "own")
    )
    assert done.exit_code == 0, done.output
    assert "Read 1 file (cvat): 0 tracks, 4 boxes" in done.stdout
    assert str(path) not in done.output  # the report has each file
    with pytest.raises(StalError, match=r"image 0 is the image 'frames/street_000000\.png', .* or give --first-frame"):
        import_into(tmp_path / "b", [path], videos)
    text = path.read_text().replace("</image>", '<polygon label="person" points="1,1;2,2"/><tag label="a"/></image>', 1)
    path.write_text(text.replace("street_000000", "street_000001"))
    import_into(tmp_path / "c", [path], videos)
    report = json.loads((tmp_path / "c" / "import_report.json").read_text())
    assert report["dropped"] == {"shapes of images: polygon": 1, "shapes of images: tag": 1}


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('name="frame_000025"', 'name="holiday.jpg"', "image 1 is the image 'holiday.jpg', but its name must hold"),
        ('name="frame_000025"', 'name="frame_000000"', "image 1 is frame 0 of video 'street.mp4' once more"),
        ('width="80"', 'width="81"', "image 1 is 80x48, but video 'street.mp4' has images of"),
        ('width="80"', 'width="wide"', "image 0: width is 'wide'"),
        ('xtl="10.00"', 'xtl="40.00"', r"image 0, shape \[0\]: the box x1,y1,x2,y2 is 40,10,30,40"),
        ('xtl="10.00"', 'xtl="10.00" rotation="3.5"', r"image 0, shape \[0\]: the box is rotated"),
        ('task_id="11"', 'task_id="99"', "image 0: task_id is '99', .*of which there are: 11, 12"),
        ("<tasks>", "<others>", "is not whole XML"),
    ],
)
def test_a_bad_export_is_refused_with_its_place_and_rule(
    old: str, new: str, message: str, tmp_path: Path, videos: Path
) -> None:
    path = write_project(tmp_path / "a.xml", SCENE, images=True)
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(StalError, match=message):
        import_files([path], tmp_path / "out", ImportOptions(name="own"), ImportedMedia(videos=videos))
    assert not (tmp_path / "out").exists()


def test_bad_archives_are_refused(tmp_path: Path, videos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.zip"
    document = write_task(tmp_path / "a.xml", "street", SCENE["street"]).read_text()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("annotations.xml", document)
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b'xtl="10.00"', b'xtl="11.00"'))
    with pytest.raises(StalError, match="cvat: it is a zip archive that cannot be read: Bad CRC-32"):
        import_into(tmp_path / "out", [path], videos)
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(StalError, match="cvat: it is a zip archive that cannot be read"):
        import_into(tmp_path / "out", [path], videos)
    path.write_bytes(whole)
    monkeypatch.setattr("stal_data.formats.cvat.MAX_BYTES", len(document) - 1)
    with pytest.raises(StalError, match="bytes of XML: export the jobs one by one"):
        import_into(tmp_path / "out", [path], videos)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("annotations.xml", document)
    monkeypatch.undo()
    with pytest.raises(StalError, match=r"annotations\.xml is encrypted, or packed in a way that is not read"):
        import_into(tmp_path / "out", [path], videos)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("labels.txt", "")
    with pytest.raises(StalError, match="cvat: it is a zip archive without XML"):
        import_into(tmp_path / "out", [path], videos)
