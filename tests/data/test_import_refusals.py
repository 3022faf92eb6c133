"""Bad files of annotation tools are refused with their place and the rule, and nothing is written."""

import pickle
from pathlib import Path

import numpy as np
import pytest

from stal_data.errors import StalError
from stal_data.formats.tool_formats import TOOL_FORMATS
from tests.data.imported import import_into, run_dataset
from tests.data.tool_files import (
    CVAT_TRACK,
    SCENE,
    WRITERS,
    write_cvat_tracks,
    write_yolo,
)


@pytest.mark.parametrize(
    "content", [b"", b"PK\x03\x04....", b'{"a": 1}', b"<svg/>", b"street,1,0.1\n", b"\x80\x02]q\x00."]
)
def test_what_is_in_no_format_is_refused_with_what_each_misses(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(content)
    done = run_dataset("import", tmp_path / "file", "--output", tmp_path / "out", "--name", "own")
    assert isinstance(done.exception, StalError)
    assert all(f"\n  {name}: " in str(done.exception) for name in TOOL_FORMATS)
    assert not (tmp_path / "out").exists()


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
    path = write_cvat_tracks(tmp_path / "a.xml", CVAT_TRACK) if name == "cvat" else WRITERS[name](tmp_path, SCENE)
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
