"""Files and DataFrames: what is read, what is refused, and that a refusal names file, line, value and rule."""

import gzip
import os
import unicodedata
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import stal_eval
from stal_data.errors import InputError, NotFoundError
from stal_data.keyframes import KeyFrame
from stal_data.times import parse_time
from stal_eval.columns import Table
from stal_eval.exclusions import load_exclusions
from stal_eval.rules import PREDICTION_COLUMNS, broken_rule
from stal_eval.table import load_table
from tests.eval.brute_force import Found, Truth
from tests.eval.frames import LABEL_MAP, ground_truth_frame, predictions_frame

GOOD = "a,0001,.1,.1,.5,.5,1,0.5"
GOOD_TRUTH = "a,0001,.1,.1,.5,.5,1,0"

BAD_PREDICTIONS = {
    "a,1,.1,.1,.5,.5,1": "has 7 columns, but predictions have 8",
    "a,1,.1,.1,.5,.5,1,.5,9,9": "has 10 columns",
    "a,1,.1,.1,.5,.5,1,.5,nan": "the person is 'nan', but must be an id",
    "a,1,.1,.1,.5,.5,1,.5,-2": "the person is '-2', but must be an id",
    "a,1,.1,.1,.5,.5,1,.5,1.0": "the person is '1.0', but must be an id",
    "video,timestamp,x1,y1,x2,y2,label,score": "looks like a header",
    "video_id,middle_frame_timestamp,x1,y1,x2,y2,action_id,score,entity": "looks like a header",
    ",1,.1,.1,.5,.5,1,.5": "the video id is empty",
    "a,1.2345,.1,.1,.5,.5,1,.5": "the time is '1.2345', but must have at most three decimals",
    "a,-1,.1,.1,.5,.5,1,.5": "must be from 0",
    "a,,.1,.1,.5,.5,1,.5": "time is ''",
    "a,0:07,.1,.1,.5,.5,1,.5": "the time is '0:07', but must be a number of seconds",
    "a,1,10,20,110,220,1,.5": "leaves .0,1.: it looks like pixels: divide x by the frame's width",
    "a,1,.1,.1,1.01,.5,1,.5": "leaves .0,1.: cut it at the frame's edge",
    "a,1,-.2,.1,.5,.5,1,.5": r"leaves \[0,1\]",
    "a,1,.5,.1,.1,.5,1,.5": "the box .5,.1,.1,.5 is inverted: the order is x1,y1,x2,y2 .* of x,y,width,height write",
    "a,1,.1,nan,.5,.5,1,.5": "y1 is 'nan', but must be a finite number",
    "a,1,.1,.1,.5,.5,0,.5": "label id is 0, but must be from 1 to 2147483647: ids from 0 are one too low, add 1",
    "a,1,.1,.1,.5,.5,walk,.5": "label id is 'walk', but must be a whole number",
    "a,1,.1,.1,.5,.5,2.5,.5": "label id is '2.5'",
    "a,1,.1,.1,.5,.5,1,nan": "the score is 'nan', but must be a finite number",
    "a,1,.1,.1,.5,.5,1,inf": "the score is 'inf'",
    "a,1,.1,.1,.5,.5,1,": "the score is ''",
    "a,1,.1,.1,.5,.5,99999999999999999999,.5": "label id is 99999999999999999999, but must be from 1",
}


def write(path: Path, *lines: str) -> Path:
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


@pytest.mark.parametrize("line", BAD_PREDICTIONS)
@pytest.mark.parametrize("position", [1, 3])
def test_a_bad_prediction_line_is_named_with_its_rule(tmp_path: Path, line: str, position: int) -> None:
    lines = [GOOD] * 3
    lines[position - 1] = line
    path = write(tmp_path / "p.csv", *lines)
    with pytest.raises(InputError, match=rf"p\.csv, line {position}: .*{BAD_PREDICTIONS[line]}"):
        load_table(path, "predictions")


@pytest.mark.parametrize(
    ("line", "rule"),
    [
        ("a,1,.1,.1,.5,.5", "has 6 columns, but ground truth has 7 or 8"),
        ("a,1,.1,.1,.5,.5,1,0,0", "has 9 columns"),
        ("a,1,.1,.1,.1,.5,1,0", "is empty, so that no prediction can match it"),
        ("a,1,.1,.1,.5,.5,x,0", "label id is 'x'"),
    ],
)
@pytest.mark.parametrize("position", [1, 3])
def test_a_bad_ground_truth_line_is_named_with_its_rule(tmp_path: Path, line: str, rule: str, position: int) -> None:
    lines = [GOOD_TRUTH] * 3
    lines[position - 1] = line
    path = write(tmp_path / "g.csv", *lines)
    with pytest.raises(InputError, match=rf"g\.csv, line {position}: .*{rule}"):
        load_table(path, "ground truth")


@pytest.mark.parametrize("position", [1, 3])
@pytest.mark.parametrize("video", ['"a" b', '"a'])
def test_quotes_that_would_make_another_id_are_an_error(tmp_path: Path, video: str, position: int) -> None:
    lines = [GOOD] * 3
    lines[position - 1] = GOOD.replace("a", video, 1)
    path = write(tmp_path / "p.csv", *lines)
    with pytest.raises(InputError, match=r"p\.csv, line \d: .*each quote in it twice"):
        load_table(path, "predictions")


def test_line_numbers_count_blank_lines_and_line_breaks_in_quotes(tmp_path: Path) -> None:
    path = write(tmp_path / "p.csv", GOOD, "", GOOD.replace("a,", '"a\nb",', 1), GOOD.replace("0.5", "nan"))
    with pytest.raises(InputError, match="line 5: the score"):
        load_table(path, "predictions")


_fields = st.sampled_from(
    [
        "a",
        "NA",
        "nan",
        "",
        "0",
        "1",
        "0001",
        "7",
        "0.25",
        "0.0625",
        "0.6000000000000001",
        ".5",
        "1.0",
        "-1",
        "1e-3",
        "2",
        "x",
        "inf",
        "1_0",
    ]
)


@given(rows=st.lists(st.lists(_fields, min_size=6, max_size=9), min_size=1, max_size=3))
@settings(max_examples=200)
def test_reading_by_column_accepts_only_what_the_row_rules_accept(
    rows: list[list[str]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = write(tmp_path_factory.mktemp("rules") / "p.csv", *(",".join(row) for row in rows))
    if any(broken_rule(row, "predictions") for row in rows):
        with pytest.raises(InputError, match=r"p\.csv, line \d: "):
            load_table(path, "predictions")
    else:
        table = load_table(path, "predictions")
        assert [table.videos[code] for code in table.video_N] == [row[0] for row in rows]
        assert table.time_ms_N.tolist() == [parse_time(row[1]) for row in rows]
        assert table.boxes_N4.tolist() == [[float(value) for value in row[2:6]] for row in rows]
        assert table.score_N is not None
        assert table.score_N.tolist() == [float(row[7]) for row in rows]


def _same(a: Table, b: Table) -> bool:
    assert a.score_N is not None
    assert b.score_N is not None
    return (
        a.videos == b.videos
        and a.video_N.tolist() == b.video_N.tolist()
        and a.boxes_N4.tolist() == b.boxes_N4.tolist()
        and a.score_N.tolist() == b.score_N.tolist()
    )


def test_each_row_keeps_its_video_in_a_file_that_is_read_in_pieces(tmp_path: Path) -> None:
    videos = [f"video {(number * 7919) % 1013}" for number in range(40_000)]  # 1.4 MB; a piece is 0.26
    table = load_table(write(tmp_path / "p.csv", *(f"{video},1,0,0,1,1,1,0.5" for video in videos)), "predictions")
    assert [table.videos[code] for code in table.video_N] == videos
    assert len(table.videos) == 1013


def test_plain_gzip_crlf_and_byte_order_mark_read_the_same(tmp_path: Path) -> None:
    text = f"{GOOD}\nNA,2,0,0,1,1,3,1e-7\n"
    plain = write(tmp_path / "plain.csv", *text.splitlines())
    packed = tmp_path / "packed.csv"  # recognised by its content, not by its name
    packed.write_bytes(gzip.compress(text.encode()))
    windows = tmp_path / "windows.csv"
    windows.write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
    table = load_table(plain, "predictions")
    assert sorted(table.videos) == ["NA", "a"]
    assert _same(table, load_table(packed, "predictions"))
    assert _same(table, load_table(windows, "predictions"))
    assert table.digest != load_table(packed, "predictions").digest


def test_ids_may_hold_commas_in_quotes_and_leading_zeros(tmp_path: Path) -> None:
    path = write(tmp_path / "p.csv", GOOD.replace("a,", '"Smith, John",', 1), GOOD.replace("a,", "007,", 1))
    assert load_table(path, "predictions").videos == ("007", "Smith, John")


@pytest.mark.parametrize("column", ["timestamp", "x2", "label", "score"])
def test_true_and_false_are_no_numbers(tmp_path: Path, column: str) -> None:
    fields = GOOD.split(",")
    fields[PREDICTION_COLUMNS.index(column)] = "True"
    with pytest.raises(InputError, match=r"p\.csv, line 1: .*'True'"):
        load_table(write(tmp_path / "p.csv", ",".join(fields), ",".join(fields)), "predictions")


def test_ground_truth_has_seven_columns_or_eight_or_a_mix(tmp_path: Path) -> None:
    path = write(tmp_path / "g.csv", GOOD_TRUTH.rsplit(",", 1)[0], GOOD_TRUTH, GOOD_TRUTH + "th person")
    assert load_table(path, "ground truth").num_rows == 3


def test_predictions_may_name_the_person(tmp_path: Path) -> None:
    path = write(tmp_path / "p.csv", GOOD, GOOD + ",07", GOOD + ",", GOOD + ",-1", GOOD + ",7", GOOD + ",0")
    table = load_table(path, "predictions")
    assert table.person_N is not None
    assert table.person_N.tolist() == [-1, 7, -1, -1, 7, 0]
    frame = predictions_frame([Found("a", 1, (0.1, 0.1, 0.5, 0.5), 1, 0.5)] * 2)
    unknown, known = (load_table(given, "predictions").person_N for given in (frame, frame.assign(person=[3, -1])))
    assert unknown is not None
    assert known is not None
    assert (unknown.tolist(), known.tolist()) == ([-1, -1], [3, -1])
    truth = write(tmp_path / "g.csv", GOOD_TRUTH)
    plain = write(tmp_path / "plain.csv", *[GOOD] * 6)
    ours, theirs = (stal_eval.evaluate(given, truth, LABEL_MAP) for given in (path, plain))
    assert ours.best == theirs.best
    with pytest.raises(InputError, match=r"the predictions DataFrame, row 1: the person is 'x'"):
        load_table(frame.assign(person=["1", "x"]), "predictions")


def test_damaged_and_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"nowhere\.csv does not exist"):
        load_table(tmp_path / "nowhere.csv", "predictions")
    cut = tmp_path / "cut.csv.gz"
    cut.write_bytes(gzip.compress(f"{GOOD}\n".encode() * 1000)[:-20])
    with pytest.raises(InputError, match=r"cut\.csv\.gz is damaged gzip"):
        load_table(cut, "predictions")
    binary = tmp_path / "binary.csv"
    binary.write_bytes(b"\xff\xfe\x00\x81" * 10)
    with pytest.raises(InputError, match=r"binary\.csv"):
        load_table(binary, "predictions")
    with pytest.raises(InputError, match="cannot be read"):
        load_table(tmp_path, "predictions")


def test_an_empty_predictions_file_scores_zero_with_a_warning_and_empty_ground_truth_is_refused(tmp_path: Path) -> None:
    empty, truth = write(tmp_path / "empty.csv"), write(tmp_path / "g.csv", GOOD_TRUTH)
    result = stal_eval.evaluate(empty, truth, LABEL_MAP)
    assert result.best == stal_eval.Best(capacity=50, mean_ap=0.0)
    assert "hold no row" in result.warnings[0]
    with pytest.raises(InputError, match=r"empty\.csv holds no row"):
        stal_eval.evaluate(write(tmp_path / "p.csv", GOOD), empty, LABEL_MAP)


def test_files_of_no_bytes_are_told_apart_by_what_they_should_hold(tmp_path: Path) -> None:
    empty, packed = tmp_path / "empty", tmp_path / "packed.gz"
    empty.touch()
    packed.write_bytes(gzip.compress(b""))
    files = write(tmp_path / "p.csv", GOOD), write(tmp_path / "g.csv", GOOD_TRUTH)
    for nothing in (empty, packed):
        assert stal_eval.evaluate(nothing, files[1], LABEL_MAP).mean_ap == 0.0
        with pytest.raises(InputError, match="holds no row, so there is nothing to find"):
            stal_eval.evaluate(files[0], nothing, LABEL_MAP)
    assert stal_eval.evaluate(*files, LABEL_MAP, exclusions=empty).mean_ap == 1.0
    with pytest.raises(InputError, match="empty holds no label"):
        stal_eval.evaluate(*files, empty)


def test_a_bad_line_of_exclusions_or_label_map_is_named(tmp_path: Path) -> None:
    files = write(tmp_path / "p.csv", GOOD), write(tmp_path / "g.csv", GOOD_TRUTH)
    exclusions = write(tmp_path / "e.csv", "a,0001", "a,0001,x")
    with pytest.raises(InputError, match=r"e\.csv, line 2: the line has 3 columns, but exclusions have 2"):
        stal_eval.evaluate(*files, LABEL_MAP, exclusions=exclusions)
    labels = write(tmp_path / "l.pbtxt", 'label { name: "walk" label_id: x }')
    with pytest.raises(InputError, match=r"l\.pbtxt"):
        stal_eval.evaluate(*files, labels)


def test_unknown_label_ids_are_left_out_and_counted(tmp_path: Path) -> None:
    found = write(tmp_path / "p.csv", GOOD, GOOD.replace(",1,0.5", ",3,0.9"), GOOD.replace(",1,0.5", ",99,0.9"))
    truth = write(tmp_path / "g.csv", GOOD_TRUTH, GOOD_TRUTH.replace(",1,0", ",77,0"))
    result = stal_eval.evaluate(found, truth, LABEL_MAP, capacities=[1])
    assert result.mean_ap == 1.0
    assert result.counts.prediction_rows_outside_label_map == 2
    assert result.counts.ground_truth_rows_outside_label_map == 1
    assert "1 ground-truth row with labels outside the label map" in result.warnings[0]


def test_ground_truth_that_no_label_matches_is_refused_with_the_reason(tmp_path: Path) -> None:
    truth = write(tmp_path / "g.csv", GOOD_TRUTH.replace(",1,0", ",77,0"))
    with pytest.raises(InputError, match=r"none of the 1 rows .* labels of 1 are not in test labels"):
        stal_eval.evaluate(write(tmp_path / "p.csv", GOOD), truth, LABEL_MAP)


def test_data_frames_are_checked_like_files() -> None:
    found = predictions_frame([Found("a", 0, (0, 0, 1, 1), 1, 0.5), Found("a", 0, (0, 0, 1, 1), 1, float("nan"))])
    truth = ground_truth_frame([Truth("a", 0, (0, 0, 1, 1), 1)])
    with pytest.raises(InputError, match="predictions DataFrame, row 1: the score is 'nan'"):
        stal_eval.evaluate(found, truth, LABEL_MAP)
    with pytest.raises(InputError, match=r"row 0: the label id is '1.5'"):
        stal_eval.evaluate(found[:1].assign(label=1.5), truth, LABEL_MAP)
    with pytest.raises(InputError, match="row 0: the time is"):
        stal_eval.evaluate(found[:1].assign(timestamp=float("nan")), truth, LABEL_MAP)
    with pytest.raises(InputError, match=r"has no column 'score', but needs .* Did you mean 'scores'"):
        stal_eval.evaluate(found.rename(columns={"score": "scores"}), truth, LABEL_MAP)


def test_data_frames_and_files_score_the_same(tmp_path: Path) -> None:
    found = predictions_frame([Found("a", 0, (0, 0, 1, 0.9), 1, 0.5), Found("b", 3, (0, 0, 1, 1), 2, 0.25)])
    truth = ground_truth_frame([Truth("a", 0, (0, 0, 1, 1), 1), Truth("b", 3, (0, 0, 0.2, 1), 2)])
    found.to_csv(tmp_path / "p.csv", header=False, index=False)
    truth.to_csv(tmp_path / "g.csv", header=False, index=False)
    in_memory = stal_eval.evaluate(found, truth, LABEL_MAP)
    from_files = stal_eval.evaluate(str(tmp_path / "p.csv"), tmp_path / "g.csv", LABEL_MAP)
    assert in_memory.per_class() == from_files.per_class() == {"walk": 1.0, "wave": 0.0, "watch": None}
    assert in_memory.digests["predictions"] == stal_eval.evaluate(found.copy(), truth, LABEL_MAP).digests["predictions"]
    changed = pd.concat([found[1:], found[:1]])
    assert in_memory.digests["predictions"] != stal_eval.evaluate(changed, truth, LABEL_MAP).digests["predictions"]


def test_bad_options_name_the_rule() -> None:
    found = predictions_frame([Found("a", 0, (0, 0, 1, 1), 1, 0.5)])
    truth = ground_truth_frame([Truth("a", 0, (0, 0, 1, 1), 1)])
    with pytest.raises(InputError, match="iou is 0, but must be above 0"):
        stal_eval.evaluate(found, truth, LABEL_MAP, iou=0)
    with pytest.raises(InputError, match="capacities is empty"):
        stal_eval.evaluate(found, truth, LABEL_MAP, capacities=[])


def test_capacities_are_ranges_and_lists() -> None:
    assert stal_eval.parse_capacities("50:53") == (50, 51, 52)
    assert stal_eval.parse_capacities("100, 50,0,50:52") == (50, 51, 100, 0)
    for text in ("50:50", "60:50", "a", "", "50:", "-1", "1.5"):
        with pytest.raises(InputError, match="capacities"):
            stal_eval.parse_capacities(text)


def test_exclusions_may_be_gzip_and_are_checked(tmp_path: Path) -> None:
    found = write(tmp_path / "p.csv", GOOD, GOOD.replace("a,0001", '"b, c",2', 1))
    truth = write(tmp_path / "g.csv", GOOD_TRUTH, GOOD_TRUTH.replace("a,0001", '"b, c",2', 1))
    packed = tmp_path / "e.csv"
    packed.write_bytes(gzip.compress(b'"b, c",0002\r\n'))
    assert stal_eval.evaluate(found, truth, LABEL_MAP, exclusions=packed).counts.excluded_key_frames == 1
    for line, rule in {
        "a,2.71828": "time is '2.71828', but must have at most three decimals",
        ",2": "video id is empty",
        "video,time": "looks like a header",
    }.items():
        with pytest.raises(InputError, match=rf"e\.csv, line 1: .*{rule}"):
            stal_eval.evaluate(found, truth, LABEL_MAP, exclusions=write(packed, line))


@pytest.mark.parametrize("videos", [("007", "7"), ("1.0", "1"), ("12345678901234567890", "12345678901234567891")])
def test_video_ids_that_look_like_numbers_stay_apart(tmp_path: Path, videos: tuple[str, str]) -> None:
    files = [
        write(tmp_path / name, *(line.replace("a,", f"{video},", 1) for video in videos))
        for name, line in (("p.csv", GOOD), ("g.csv", GOOD_TRUTH))
    ]
    for path, kind in zip(files, ("predictions", "ground truth"), strict=True):
        assert load_table(path, kind).videos == tuple(sorted(videos))
    excluded = write(tmp_path / "e.csv", f"{videos[0]},1")
    assert stal_eval.evaluate(*files, LABEL_MAP, exclusions=excluded).counts.excluded_key_frames == 1


def test_video_ids_are_the_same_in_either_unicode_form(tmp_path: Path) -> None:
    composed, decomposed = (unicodedata.normalize(form, "Café") for form in ("NFC", "NFD"))
    path = write(tmp_path / "p.csv", *(GOOD.replace("a,", f"{video},", 1) for video in (decomposed, "z", composed)))
    table = load_table(path, "predictions")
    assert (table.videos, table.video_N.tolist()) == ((composed, "z"), [0, 1, 0])
    assert load_exclusions(write(tmp_path / "e.csv", f"{decomposed},1")).keys == {KeyFrame(composed, 1000)}


def test_exclusions_without_effect_are_warned_about(tmp_path: Path) -> None:
    files = write(tmp_path / "p.csv", GOOD), write(tmp_path / "g.csv", GOOD_TRUTH)
    elsewhere = write(tmp_path / "e.csv", "a.mp4,0001")
    result = stal_eval.evaluate(*files, LABEL_MAP, exclusions=elsewhere)
    assert "None of the 1 excluded key frames occurs" in result.warnings[0]
    ignored = stal_eval.evaluate(*files, LABEL_MAP, exclusions=elsewhere, protocol="published")
    assert "published ignores exclusions" in ignored.warnings[0]


def test_ground_truth_given_twice_and_predictions_cut_short_are_warned_about(tmp_path: Path) -> None:
    other = GOOD_TRUTH.replace("a,", "b,", 1)
    files = write(tmp_path / "p.csv", GOOD), write(tmp_path / "g.csv", GOOD_TRUTH, other, other[:-1] + "7")
    result = stal_eval.evaluate(*files, LABEL_MAP)
    assert result.counts.repeated_ground_truth_rows == 1
    assert "1 of 2 key frames with ground truth, but without a prediction" in result.warnings[0]
    assert "1 ground-truth row with the key frame, box and class" in result.warnings[1]


def test_a_pipe_is_refused_because_it_can_be_read_only_once(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(InputError, match="pipe cannot be read as CSV: it is a folder, a pipe or a device"):
        load_table(pipe, "predictions")


def test_more_capacities_than_any_sweep_needs_are_refused() -> None:
    with pytest.raises(InputError, match="at most 100000"):
        stal_eval.parse_capacities("0:100000000000")
