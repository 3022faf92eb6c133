"""Validation finds, with file and line, everything that would fail or score 0 later."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from stal_data.dataset import Dataset
from stal_data.validation import Report, media_checks, validate
from tests.data.folders import DATASET_YAML, rows_of, write_small_dataset
from tests.data.video_kinds import KINDS
from tests.data.videos import constant, write_video


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_small_dataset(tmp_path)


def _validate(root: Path, **options: bool) -> Report:
    return validate(Dataset.open(root), **options)


def _edit_line(path: Path, line: int, edit: Callable[[str], str]) -> None:
    lines = path.read_text().splitlines()
    lines[line - 1] = edit(lines[line - 1])
    path.write_text("\n".join(lines) + "\n")


def test_a_good_data_set_has_no_findings_and_is_counted(root: Path) -> None:
    report = _validate(root, decode=True)
    assert report.findings == ()
    train, _ = report.counts
    assert (train.videos, train.key_frames, train.boxes, train.actions, train.excluded) == (1, 2, 4, 6, 0)
    assert train.per_class == {"stand": 2, "walk": 2, "wave": 2}


@pytest.mark.parametrize(
    ("old", "new", "rule", "message"),
    [
        ("0.1,0.2,0.3,0.4", "0.1,0.2,30,0.4", "box", r"the box 0.1,0.2,30,0.4 leaves \[0,1\]: divide x by"),
        ("0.1,0.2,0.3,0.4", "0.3,0.2,0.1,0.4", "box", "is inverted or empty"),
        ("0.1,0.2,0.3,0.4", "0.1,nan,0.3,0.4", "number", "y1 is 'nan', but must be finite"),
        (",2,1,26,", ",17,1,26,", "label", "label id 18 is not in .*labels.pbtxt, which has 3 labels, 1 to 3"),
        (",0,0", ",0", "columns", "the line has 12 columns"),
        (",2.0,", ",7.0,", "time", "Second 0007 of video 'b' has no frame: its media run from 0 s to 3 s"),
        (
            ",26,76,",
            ",26,77,",
            "window",
            r"window 26 to 77 \(exclusive\) leaves the media of video 'b', frames 1 to 75",
        ),
        (",26,76,", ",0,50,", "window", "window 0 to 50"),
        (",26,76,", ",50,26,", "window", "frame_start 50 and frame_end 26 enclose no frame"),
        ("b,", "c,", "media", "Video 'c' has no frames: the folder .* does not exist"),
    ],
)
def test_a_bad_row_is_named_with_file_and_line(root: Path, old: str, new: str, rule: str, message: str) -> None:
    path = root / "test.csv"
    for line in (4, 5, 6):  # all rows of the second key frame
        _edit_line(path, line, lambda text: text.replace(old, new))
    found = [item for item in _validate(root).errors if item.rule == rule]
    assert found
    assert (found[0].split, found[0].path) == ("test", path)
    assert f"{path}:{found[0].line}: error: " in str(found[0])
    assert found[0].line is not None
    assert old not in path.read_text().splitlines()[found[0].line - 1]
    assert re.search(message, found[0].message)


def test_times_finer_than_milliseconds_are_named_one_by_one(root: Path) -> None:
    spec = DATASET_YAML.replace("chaotic_world", "ava")
    (root / "dataset.yaml").write_text(spec)
    for name, video in (("train", "a"), ("test", "b")):
        lines = [
            f"{video},{time},0.{tenth},0.2,0.9,0.4,{tenth},0" for tenth, time in ((1, 1.2), (2, 1.23456), (3, 1.40001))
        ]
        (root / f"{name}.csv").write_text("\n".join(lines) + "\n")
    (root / "excluded.csv").write_text("time,video\nb,2.55555\nb,2.4\n")
    found = [(item.split, item.rule, item.path.name, item.line) for item in _validate(root).errors]
    assert found == [
        ("train", "time", "train.csv", 2),
        ("train", "time", "train.csv", 3),
        ("test", "header", "excluded.csv", 1),
        ("test", "time", "excluded.csv", 2),
        ("test", "time", "test.csv", 2),
        ("test", "time", "test.csv", 3),
    ]


def test_every_bad_row_is_found_in_one_run(root: Path) -> None:
    for line in (1, 3, 6):
        _edit_line(root / "train.csv", line, lambda text: text.replace("0.2", "-0.2", 1))
    assert [item.line for item in _validate(root).errors] == [1, 3, 6]


def test_labels_counted_from_one_are_recognised(root: Path) -> None:
    rows = [row.split(",") for row in rows_of("b")]
    (root / "test.csv").write_text("\n".join(",".join([*r[:6], str(int(r[6]) + 1), *r[7:]]) for r in rows) + "\n")
    (offset,) = [item for item in _validate(root).errors if item.rule == "label-offset"]
    assert offset.path.name == "test.csv"
    assert "labels run from 1 to 3, but in the chaotic_world format they run from 0 to 2" in offset.message
    assert "subtract 1 from every label" in offset.message


def test_labels_that_may_be_off_by_one_are_a_warning(root: Path) -> None:
    rows = [row.replace(",2,1,", ",1,1,").replace(",0,1,", ",2,1,") for row in rows_of("b")]
    (root / "test.csv").write_text("\n".join(rows) + "\n")
    report = _validate(root)
    assert report.errors == ()
    assert {item.rule for item in report.findings} == {"label-offset", "unused-class"}


def test_ava_labels_counted_from_zero_are_recognised(root: Path) -> None:
    (root / "dataset.yaml").write_text(DATASET_YAML.replace("chaotic_world", "ava"))
    for name, video in (("train", "a"), ("test", "b")):
        lines = [f"{video},{second},0.1,0.2,0.3,0.4,{label},1" for second in (1, 2) for label in (0, 1, 2)]
        (root / f"{name}.csv").write_text("\n".join(lines) + "\n")
    offsets = [item for item in _validate(root).errors if item.rule == "label-offset"]
    assert len(offsets) == 2
    assert "add 1 to every label" in offsets[0].message


def test_missing_frames_are_named_with_the_folder_and_the_line_that_needs_them(root: Path) -> None:
    for number in (60, 61):
        (root / "frames" / "b" / f"b_{number:06d}.png").unlink()
    (finding,) = _validate(root).errors
    assert (finding.rule, finding.path) == ("frames", root / "frames" / "b")
    # Of every second frame 60 alone is in the clip of key frame 2, which starts at an even number.
    assert "1 frame missing that clips need: b_000060.png" in finding.message
    assert f"key frame b,0002 of {root / 'test.csv'}:4" in finding.message


def test_excluded_key_frames_may_lack_their_frames(root: Path) -> None:
    (root / "frames" / "b" / "b_000060.png").unlink()
    (root / "excluded.csv").write_text("b,2\n")
    report = _validate(root)
    assert report.errors == ()
    assert report.counts[1].excluded == 1


def test_damaged_frames_are_found_when_decoding(root: Path) -> None:
    (root / "frames" / "b" / "b_000060.png").write_bytes(b"\x89PNG damaged")
    assert _validate(root).errors == ()
    (finding,) = _validate(root, decode=True).errors
    assert finding.rule == "decode"
    assert "b_000060.png does not decode as an image" in finding.message
    for number in (3, 5, 72):
        (root / "frames" / "b" / f"b_{number:06d}.png").write_bytes(b"\x89PNG damaged")
    found = _validate(root, decode=True).errors
    assert [(item.rule, item.line) for item in found] == [("decode", line) for line in (1, 1, 4, 4)]
    for item, number in zip(found, (3, 5, 60, 72), strict=True):
        assert f"b_{number:06d}.png does not decode as an image" in item.message


def test_a_broken_video_is_not_read_to_its_end_frame_by_frame(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(media_checks, "MAX_BROKEN", 3)
    for number in range(2, 76):  # the first gives the size of them all
        (root / "frames" / "b" / f"b_{number:06d}.png").write_bytes(b"\x89PNG damaged")
    *found, last = _validate(root, decode=True).errors
    assert ["b_000003" in found[0].message, "b_000005" in found[1].message, len(found)] == [True, True, 3]
    assert last.message.startswith("More than 3 frames of video 'b' do not decode")


def test_damage_in_a_video_file_is_named_at_its_key_frames(tmp_path: Path) -> None:
    path = write_video(tmp_path / "v.mp4", constant(25, 300))
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 400] = bytes(400)
    path.write_bytes(content)
    (tmp_path / "dataset.yaml").write_text("name: own\nmedia: {kind: video, root: .}\nsplits: {all: {videos: '*'}}")
    found = _validate(tmp_path, decode=True).errors
    assert {item.rule for item in found} == {"decode"}
    assert all(re.search(r"v.mp4 does not decode as a video .*near \d+\.\d\d s", item.message) for item in found)
    assert len(found) > 1


def test_repeated_rows_and_two_windows_of_a_key_frame_are_warnings(root: Path) -> None:
    with (root / "train.csv").open("a") as file:
        file.write(rows_of("a")[0] + "\n" + "a,1,0.6,0.2,0.7,0.4,1,3,2,50,1.0,0,0\n")
    duplicate, window = _validate(root).findings
    assert (duplicate.rule, duplicate.line, duplicate.severity) == ("duplicate", 7, "warning")
    assert "repeats line 1" in duplicate.message
    assert (window.rule, window.line) == ("window", 8)
    assert "2 to 50 here and 1 to 51 in line 1" in window.message


def test_one_unreadable_file_does_not_hide_the_other_split(root: Path) -> None:
    (root / "train.csv").unlink()
    _edit_line(root / "test.csv", 2, lambda text: text.replace("0.2", "-0.2"))
    assert [(item.split, item.rule) for item in _validate(root).errors] == [("train", "file"), ("test", "box")]


def test_an_empty_split_and_bad_exclusions_are_errors(root: Path) -> None:
    (root / "train.csv").write_text("")
    (root / "excluded.csv").write_text("b\n")
    found = [(item.split, item.rule, item.path.name, item.line) for item in _validate(root).errors]
    assert found == [("train", "empty", "train.csv", None), ("test", "columns", "excluded.csv", 1)]


def test_a_video_in_two_splits_is_a_warning(root: Path) -> None:
    (root / "test.csv").write_text("\n".join(rows_of("a")) + "\n")
    (finding,) = _validate(root).findings
    assert (finding.rule, finding.severity) == ("shared-videos", "warning")


def test_videos_without_annotations_are_checked_too(tmp_path: Path) -> None:
    write_video(tmp_path / "good.mp4", constant(25, 30))
    (tmp_path / "dataset.yaml").write_text("name: own\nmedia: {kind: video, root: .}\nsplits: {all: {videos: '*'}}")
    report = _validate(tmp_path, decode=True)
    assert report.findings == ()
    assert report.counts[0].key_frames == report.counts[0].without_people == 2
    (tmp_path / "bad.mp4").write_bytes(b"not a video at all")
    (finding,) = _validate(tmp_path).errors
    assert finding.rule == "media"
    assert "bad.mp4 does not decode as a video" in finding.message


def test_what_is_left_out_and_a_clock_that_jumps_are_warnings(tmp_path: Path) -> None:
    KINDS["restarted.ts"](tmp_path / "a.ts")
    (tmp_path / "dataset.yaml").write_text("name: own\nmedia: {kind: video, root: .}\nsplits: {all: {videos: a}}")
    (tmp_path / "notes.txt").write_text("")
    (tmp_path / "round").symlink_to("round")
    report = _validate(tmp_path)
    assert not report.errors
    assert [(finding.rule, finding.path.name) for finding in report.findings] == [
        ("clock", "dataset.yaml"),
        ("left-out", tmp_path.name),
        ("left-out", tmp_path.name),
    ]
    assert "video 'a': its clock jumps by" in report.findings[0].message
    assert "notes.txt is left out, since it is no video by its ending" in report.findings[1].message
