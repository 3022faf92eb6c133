"""Annotation files of both formats become key frames; bad lines are named."""

import unicodedata
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stal_data.annotations import read_annotations, read_chaotic_world, read_exclusions, write_ground_truth
from stal_data.errors import InputError, NotFoundError
from stal_data.formats import FORMATS
from stal_data.keyframes import AnnotatedKeyFrame, KeyFrame
from stal_data.labels import Label, LabelMap
from stal_eval.table import load_table

LABELS = LabelMap([Label(1, "stand"), Label(2, "walk"), Label(3, "wave")], "map.pbtxt")
GOOD = "v1,1,0.1,0.2,0.3,0.4,0,7,11,75,2.9,0,0"


def _file(path: Path, *lines: str) -> Path:
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def test_rows_of_a_key_frame_become_people_with_actions(tmp_path: Path) -> None:
    path = _file(
        tmp_path / "a.csv",
        "v2,1,0.5,0.5,0.6,0.6,2,1,1,65,0.0,0,0",
        GOOD,
        "v1,1,0.1,0.2,0.3,0.4,2,7,11,75,2.9,0,0",  # the same person doing something else
        "v1,1,0.5,0.2,0.7,0.4,1,8,11,75,2.90,0,0",
        "v1,1,0.1,0.2,0.3,0.4,0,7,11,75,2.9,0,0",  # a repeated row
    )
    first, second = read_chaotic_world(path, LABELS)
    assert (first.key, second.key) == (KeyFrame("v1", 2000), KeyFrame("v2", 0))
    assert first.window == (11, 75)
    np.testing.assert_array_equal(first.boxes_N4, np.float32([[0.1, 0.2, 0.3, 0.4], [0.5, 0.2, 0.7, 0.4]]))
    assert first.boxes_N4.dtype == np.float32
    assert first.labels == (frozenset({1, 3}), frozenset({2}))
    assert first.persons == (7, 8)


def test_further_columns_in_the_middle_are_skipped(tmp_path: Path) -> None:
    path = _file(tmp_path / "a.csv", "v1,1,0.1,0.2,0.3,0.4,0,7,x,y,11,75,2.9,0,0")
    assert read_chaotic_world(path, LABELS)[0].window == (11, 75)


def test_ava_counts_labels_from_one_and_knows_key_frames_without_people(tmp_path: Path) -> None:
    path = _file(
        tmp_path / "a.csv",
        "m,0902,0.1,0.2,0.3,0.4,1,0",
        "m,0902,0.1,0.2,0.3,0.4,3,0",
        "m,0903,,,,,,",
        "m,0904",
        "m,905,0.1,0.2,0.3,0.4,2,",
    )
    frames = read_annotations(path, FORMATS["ava"], LABELS)
    assert [frame.key.time_ms for frame in frames] == [902000, 903000, 904000, 905000]
    assert [frame.boxes_N4.shape for frame in frames] == [(1, 4), (0, 4), (0, 4), (1, 4)]
    assert frames[0].labels == (frozenset({1, 3}),)
    assert frames[0].window is None
    assert frames[3].persons == (-1,)


def test_labels_outside_avas_scored_classes_can_be_dropped_but_keep_their_person(tmp_path: Path) -> None:
    path = _file(tmp_path / "a.csv", "m,902,0.1,0.2,0.3,0.4,80,0")
    with pytest.raises(InputError, match=r"label id 80 is not in map.pbtxt"):
        read_annotations(path, FORMATS["ava"], LABELS)
    (frame,) = read_annotations(path, FORMATS["ava"], LABELS, drop_unknown_labels=True)
    assert frame.labels == (frozenset(),)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("v1,1,0.1,0.2,0.3,0.4,0,7,11,75,2.9,0", "12 columns, but the Chaotic World format has 13"),
        (GOOD.replace("0.3", "nan"), "x2 is 'nan', but must be finite"),
        (GOOD.replace("0.3", "inf"), "x2 is 'inf', but must be finite"),
        (GOOD.replace("0.3", "left"), "x2 is 'left', but must be a number"),
        (GOOD.replace("0.3", "1.3"), r"the box 0.1,0.2,1.3,0.4 leaves \[0,1\]"),
        (GOOD.replace("0.3", "0.05"), "the box 0.1,0.2,0.05,0.4 is inverted or empty"),
        (GOOD.replace(",0,7,", ",3,7,"), "label id 4 is not in map.pbtxt, which has 3 labels, 1 to 3"),
        (GOOD.replace(",0,7,", ",0.5,7,"), "label is '0.5', but must be a whole number"),
        (GOOD.replace(",11,75,", ",75,75,"), "frame_start 75 and frame_end 75 enclose no frame"),
        (GOOD.replace("2.9", "-1"), "the time is '-1', but must be from 0 to 10000000000 seconds"),
        (GOOD.replace("v1", "../v1"), "a video id must be printable and hold no"),
        (GOOD.replace("2.9", "2.0"), r"the time is 2.0, but 2.9 in line 1 of the same key frame v1,0002"),
        (GOOD.replace("2.9", "1e300"), "the time is '1e300', but must be from 0 to"),
        (GOOD.replace(",11,", ",1_1,"), "frame_start is '1_1', but must be a number"),
        ("video,frame,x1,y1,x2,y2,label,person,frame_start,frame_end,time,a,b", "looks like a header, .* remove"),
    ],
)
def test_a_bad_line_is_named_with_file_and_number(tmp_path: Path, line: str, message: str) -> None:
    path = _file(tmp_path / "a.csv", GOOD, "", line)
    with pytest.raises(InputError, match=rf"a.csv, line 3: .*{message}.*dataset validate"):
        read_chaotic_world(path, LABELS)


def test_boxes_that_leave_the_frame_by_rounding_are_cut(tmp_path: Path) -> None:
    path = _file(tmp_path / "a.csv", GOOD.replace("0.3", "1.0000001").replace("0.1", "-0.0000001"))
    (frame,) = read_chaotic_world(path, LABELS)
    assert frame.boxes_N4.min() == 0
    assert frame.boxes_N4.max() == 1


def test_files_that_are_missing_or_not_text_are_named(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"none.csv does not exist"):
        read_chaotic_world(tmp_path / "none.csv", LABELS)
    (tmp_path / "b.csv").write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(InputError, match=r"b.csv cannot be read as CSV"):
        read_chaotic_world(tmp_path / "b.csv", LABELS)


@pytest.mark.parametrize("video", ['"v" 1', '"v1'])
def test_quotes_that_would_make_another_id_are_an_error(tmp_path: Path, video: str) -> None:
    path = _file(tmp_path / "a.csv", GOOD, video + GOOD[2:])
    with pytest.raises(InputError, match=r"a.csv, line 2: .*stands in quotes, each quote in it twice"):
        read_chaotic_world(path, LABELS)


def test_a_quote_that_is_never_closed_is_named_where_it_opens(tmp_path: Path) -> None:
    path = _file(tmp_path / "a.csv", GOOD, "", '"v1' + GOOD[2:], *[GOOD] * 10)
    with pytest.raises(InputError, match=r"a.csv, line 3: unexpected end of data"):
        read_chaotic_world(path, LABELS)
    path = _file(tmp_path / "b.csv", GOOD, '"v', f'1"{GOOD[2:]}')
    with pytest.raises(InputError, match=r"b.csv, line 2: .*video id"):
        read_chaotic_world(path, LABELS)


@pytest.mark.parametrize(
    "header",
    [
        "video_id,middle_frame_timestamp,x1,y1,x2,y2,action_id,person_id",
        '"video","time"',
        "# video, time, x1, y1, x2, y2, label, person, entity",
        "0,1,2,3,4,5,6,7",
    ],
)
def test_a_header_is_recognised_before_its_columns_are_counted(tmp_path: Path, header: str) -> None:
    path = _file(tmp_path / "a.csv", header, "m,902,0.1,0.2,0.3,0.4,1,0")
    with pytest.raises(InputError, match=r"a.csv, line 1: the line looks like a header.*remove the line"):
        read_annotations(path, FORMATS["ava"], LABELS)


def test_avas_format_has_times_within_a_second(tmp_path: Path) -> None:
    rows = [f"m,{time},0.1,0.2,0.3,0.4,{label},0" for time, label in (("0902.2", 1), ("902.200", 2), ("902", 1))]
    frames = read_annotations(_file(tmp_path / "a.csv", *rows, "m,0902.04"), FORMATS["ava"], LABELS)
    assert [str(frame.key) for frame in frames] == ["m,0902", "m,0902.04", "m,0902.2"]
    assert frames[2].labels == (frozenset({1, 2}),)
    assert frames[2].window is None


def test_a_time_finer_than_milliseconds_is_refused(tmp_path: Path) -> None:
    path = _file(tmp_path / "a.csv", "m,902.0,0.1,0.2,0.3,0.4,1,0", "m,902.0333,0.1,0.2,0.3,0.4,2,0")
    with pytest.raises(
        InputError, match=r"a.csv, line 2: the time is '902.0333', but must have at most three decimals"
    ):
        read_annotations(path, FORMATS["ava"], LABELS)


def test_the_whole_part_of_a_chaotic_world_time_is_the_key(tmp_path: Path) -> None:
    """As the published code, which prints `%04d` of it."""
    rows = [GOOD.replace("2.9", time) for time in ("7.123456", "2.9999", "3.0")]
    frames = read_chaotic_world(_file(tmp_path / "a.csv", *rows), LABELS)
    assert [frame.key.time_ms for frame in frames] == [2000, 3000, 7000]


def test_exclusions_are_read_and_checked(tmp_path: Path) -> None:
    whole = _file(tmp_path / "e.csv", "v1,0002", "v1,3.0")
    assert read_exclusions(whole, "chaotic_world") == {KeyFrame("v1", 2000), KeyFrame("v1", 3000)}
    fraction = _file(tmp_path / "e.csv", "v1,3.5")
    assert read_exclusions(fraction, FORMATS["ava"]) == {KeyFrame("v1", 3500)}
    for annotation_format in (FORMATS["chaotic_world"], None):
        with pytest.raises(InputError, match=r"e.csv, line 1: the time is 3.5, but must be whole seconds"):
            read_exclusions(fraction, annotation_format)
    with pytest.raises(InputError, match=r"e.csv, line 1: the line looks like a header"):
        read_exclusions(_file(tmp_path / "e.csv", "video,time", "v1,3"), FORMATS["ava"])
    with pytest.raises(InputError, match=r"e.csv, line 2: the time is 'three', but must be a number"):
        read_exclusions(_file(tmp_path / "e.csv", "v1,3", "v1,three"), FORMATS["ava"])
    with pytest.raises(InputError, match=r"e.csv, line 1: the line has 3 columns, but needs 2"):
        read_exclusions(_file(tmp_path / "e.csv", "v1,2,3"), FORMATS["ava"])


unit = st.floats(0, 1, width=32)


@settings(max_examples=30)  # each writes a file safely
@given(boxes=st.lists(st.tuples(unit, unit, unit, unit), max_size=5), labels=st.sets(st.integers(1, 3), min_size=1))
def test_ground_truth_keeps_every_digit_of_the_boxes(
    tmp_path_factory: pytest.TempPathFactory, boxes: list[tuple[float, ...]], labels: set[int]
) -> None:
    frame = AnnotatedKeyFrame(
        key=KeyFrame("v", 7000),
        window=None,
        boxes_N4=np.array(boxes, np.float32).reshape(-1, 4),
        labels=(frozenset(labels),) * len(boxes),
        persons=tuple(range(len(boxes))),
    )
    path = tmp_path_factory.mktemp("gt") / "gt.csv"
    write_ground_truth(path, [frame])
    rows = [line.split(",") for line in path.read_text().splitlines()]
    assert len(rows) == len(boxes) * len(labels)
    assert all(row[:2] == ["v", "0007"] for row in rows)
    for row in rows:
        np.testing.assert_array_equal(np.float32(row[2:6]), frame.boxes_N4[int(row[7])])
    assert {int(row[6]) for row in rows} == (labels if boxes else set())
    assert [item.name for item in path.parent.iterdir()] == ["gt.csv"]


# What check_video_id allows, with what CSV gives a meaning of its own.
video_ids = (
    st.text(st.sampled_from(" ,\"'#;|abé中NA01.e+") | st.characters(categories=["L", "N", "P", "S"]), min_size=1)
    .map(lambda text: unicodedata.normalize("NFC", text))
    .filter(lambda text: text.isprintable() and not set(text) & set("/\\") and ".." not in text and text != ".")
)


@settings(max_examples=50)
@given(videos=st.lists(video_ids, min_size=1, max_size=4, unique=True))
def test_every_reader_gives_the_video_ids_of_the_ground_truth_back(
    tmp_path_factory: pytest.TempPathFactory, videos: list[str]
) -> None:
    path = tmp_path_factory.mktemp("gt") / "gt.csv"
    box = np.float32([[0.1, 0.2, 0.3, 0.4]])
    frames = [
        AnnotatedKeyFrame(key=KeyFrame(video, 7000), window=None, boxes_N4=box, labels=(frozenset({2}),), persons=(0,))
        for video in sorted(videos)
    ]
    write_ground_truth(path, frames)
    assert [item.key for item in read_annotations(path, FORMATS["ava"], LABELS)] == [item.key for item in frames]
    assert sorted(load_table(path, "ground truth").videos) == sorted(videos)
