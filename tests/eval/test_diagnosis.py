"""Usual mistakes made on purpose: each is named with its fix, and none is named where there is none."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

import stal_eval
from stal_data.labels import Label, LabelMap
from stal_eval.finding import Finding
from tests.eval.brute_force import Box, Found, Truth
from tests.eval.frames import LABEL_MAP, ground_truth_frame, predictions_frame

LABELS = list(LABEL_MAP.ids)  # 1, 2, 4


def people() -> tuple[list[Found], list[Truth]]:
    """Good predictions: three videos, some key frames, tall people anywhere, every class scored."""
    rng = np.random.default_rng(0)
    found, truth = [], []
    for video in ("one", "two", "three"):
        for timestamp in range(3, 15):
            for _ in range(2):
                x, y = rng.uniform(0.05, 0.7), rng.uniform(0.05, 0.4)
                box = (x, y, x + 0.15, y + 0.5)
                label = int(rng.choice(LABELS, p=[0.6, 0.2, 0.2]))
                truth.append(Truth(video, timestamp, box, label))
                found += [Found(video, timestamp, box, own, 0.9 if own == label else 0.1) for own in LABELS]
    return found, truth


def findings(found: list[Found], truth: list[Truth]) -> tuple[Finding, ...]:
    result = stal_eval.evaluate(predictions_frame(found), ground_truth_frame(truth), LABEL_MAP)
    assert [str(finding) for finding in result.findings] == list(result.warnings[: len(result.findings)])
    assert result.metrics()["findings"] == [vars(finding) for finding in result.findings]
    return result.findings


def only(found: list[Found], truth: list[Truth]) -> Finding:
    (finding,) = findings(found, truth)
    return finding


def changed(change: Callable[[Found], Found]) -> tuple[list[Found], list[Truth]]:
    found, truth = people()
    return [change(row) for row in found], truth


def test_nothing_is_said_about_a_good_result() -> None:
    assert findings(*people()) == ()


@pytest.mark.parametrize(
    ("rewrite", "what"),
    [
        (lambda video: f"{video}.mp4", "file endings"),
        (lambda video: f"videos/{video}", "folders"),
        (lambda video: f"videos/{video}.mkv", "folders and file endings"),
        (str.upper, "upper and lower case"),
        (lambda video: f"00{video}", "leading zeros"),
        (lambda video: f" {video}", "spaces around them"),
    ],
)
def test_video_ids_written_differently(rewrite: Callable[[str], str], what: str) -> None:
    finding = only(*changed(lambda row: replace(row, video=rewrite(row.video))))
    assert finding.cause == "video_ids"
    assert f"share no key frame: the video ids differ in {what}, '{rewrite('one')}'" in finding.evidence
    assert "Write the ids of the predictions as in the ground truth" in finding.fix


def test_predictions_of_another_split() -> None:
    finding = only(*changed(lambda row: replace(row, video=f"other {len(row.video)}")))
    assert finding.cause == "video_ids"
    assert "name videos such as 'other 3', the ground truth such as 'one'" in finding.evidence
    assert "of this split" in finding.fix


@pytest.mark.parametrize(
    ("change", "evidence", "fix"),
    [
        (lambda second: second + 900, "900 below the predictions'", "Subtract 900 from the predictions' timestamps"),
        (lambda second: second * 25, "the predictions' look like frame numbers at 25 a second", "Divide them by 25"),
        (lambda second: second * 30 + 7, "frame numbers at 30 a second", "Divide them by 30"),
        (lambda second: second * 1000, "the predictions' look like milliseconds", "Divide them by 1000"),
    ],
)
def test_timestamps_of_another_kind(change: Callable[[int], int], evidence: str, fix: str) -> None:
    finding = only(*changed(lambda row: replace(row, timestamp=change(row.timestamp))))
    assert finding.cause == "timestamps"
    assert evidence in finding.evidence
    assert fix in finding.fix


def test_ground_truth_in_frames_is_told_from_predictions_in_frames() -> None:
    found, truth = people()
    finding = only(found, [replace(row, timestamp=row.timestamp * 25) for row in truth])
    assert "the ground truth's look like frame numbers at 25 a second" in finding.evidence


@pytest.mark.parametrize(
    ("change", "evidence", "fix"),
    [
        (lambda fifth: fifth * 5, "look like frame numbers at 25 a second", "Divide them by 25: seconds."),
        (lambda fifth: fifth * 200, "look like milliseconds", "Divide them by 1000: seconds."),
        (lambda fifth: fifth / 5 + 900.5, "900.5 below the predictions'", "Subtract 900.5 from the predictions'"),
        (lambda fifth: fifth / 5 + 0.04, "0.04 below the predictions'", "Subtract 0.04 from the predictions'"),
    ],
)
def test_timestamps_of_another_kind_than_five_a_second(change: Callable[[int], float], evidence: str, fix: str) -> None:
    found, truth = people()
    truth = [replace(row, timestamp=row.timestamp / 5) for row in truth]
    finding = only([replace(row, timestamp=change(row.timestamp)) for row in found], truth)
    assert finding.cause == "timestamps"
    assert evidence in finding.evidence
    assert fix in finding.fix


def test_timestamps_that_nothing_explains_are_shown() -> None:
    found, truth = people()
    spread = {second: int(value) for second, value in zip(range(3, 15), 17 ** np.arange(3, 15) % 10_007, strict=True)}
    finding = only([replace(row, timestamp=20_000 + spread[row.timestamp] * 2) for row in found], truth)
    assert "the ground truth 0003, 0004, 0005 .." in finding.evidence
    assert "as seconds of the video on both sides" in finding.fix


def test_boxes_in_another_order() -> None:
    finding = only(*changed(lambda row: replace(row, box=tuple(row.box[index] for index in (1, 0, 3, 2)))))
    assert finding.cause == "box_order"
    assert "read as y1,x1,y2,x2 it would be 100 %" in finding.evidence
    assert "Write boxes as x1,y1,x2,y2" in finding.fix


@pytest.mark.parametrize(
    ("form", "written", "corners"),
    [
        ("x1,y1,width,height", (0.2, 0.2, 0.3, 0.4), (0.2, 0.2, 0.5, 0.6)),
        ("centre x,centre y,width,height", (0.3, 0.4, 0.5, 0.5), (0.05, 0.15, 0.55, 0.65)),
    ],
)
def test_boxes_with_width_and_height(form: str, written: Box, corners: Box) -> None:
    # Such boxes pass for corners where the width is above x and the height above y.
    found, truth = people()
    finding = only([replace(row, box=written) for row in found], [replace(row, box=corners) for row in truth])
    assert finding.cause == "box_order"
    assert f"read as {form} it would be 100 %" in finding.evidence


def test_boxes_divided_by_the_frame_size_twice() -> None:
    finding = only(*changed(lambda row: replace(row, box=tuple(value / 320 for value in row.box))))
    assert finding.cause == "box_scale"
    assert "divided by the frame's size twice" in finding.fix


@pytest.mark.parametrize(("shift", "fix"), [(-1, "Add 1 to the label ids"), (1, "Subtract 1 from the label ids")])
def test_labels_off_by_one(shift: int, fix: str) -> None:
    labels = LabelMap([Label(label, f"action {label}") for label in range(1, 31)])
    _, people_there = people()
    truth = [replace(row, label=2 + index % 28) for index, row in enumerate(people_there)]
    found = [
        Found(row.video, row.timestamp, row.box, label + shift, 0.9 if label == row.label else 0.1)
        for row in truth
        for label in range(2, 30)
    ]
    result = stal_eval.evaluate(predictions_frame(found), ground_truth_frame(truth), labels)
    (finding,) = result.findings
    assert finding.cause == "label_offset"
    assert "instead of" in finding.evidence
    assert fix in finding.fix


def test_boxes_that_find_no_one_and_scores_that_say_nothing_are_told_apart() -> None:
    _, truth = people()
    away = [Found(row.video, row.timestamp, (0.0, 0.95, 0.05, 1.0), row.label, 0.9) for row in truth]
    assert only(away, truth).cause == "people_not_found"
    others = [Found(row.video, row.timestamp, row.box, {1: 4, 2: 4, 4: 2}[row.label], 0.9) for row in truth]
    finding = only(others, truth)
    assert finding.cause == "actions_wrong"
    assert "100 % of the ground-truth boxes have a predicted box with IoU 0.5" in finding.evidence


def test_rows_written_twice() -> None:
    found, truth = people()
    untied = [replace(row, score=row.score - number / 10_000) for number, row in enumerate(found)]
    finding = only(untied * 6, truth)
    assert finding.cause == "repeated_rows"
    assert "83 % of the prediction rows on some key frames repeat the box and class of another" in finding.evidence
