"""Every ground-truth box and every row has one outcome: against a plain loop, and spelled out case by case."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import stal_eval
from tests.eval.brute_force import Box, Found, Truth, iou, mark_hits
from tests.eval.frames import LABEL_MAP, ground_truth_frame, predictions_frame
from tests.eval.test_sweep import ground_truth, predictions

NAME = dict(zip(LABEL_MAP.ids, LABEL_MAP.names, strict=True))
Counts = dict[str, dict[str, Counter[str]]]


def plain_breakdown(found: list[Found], truth: list[Truth], kept: set[int], min_iou: float = 0.5) -> Counts:
    """Outcomes by class name and side, one box and one row at a time; kept: ids of the rows that count."""
    found, truth = [r for r in found if r.label in NAME], [t for t in truth if t.label in NAME]
    counts: Counts = {name: {"ground_truth": Counter(), "predictions": Counter()} for name in LABEL_MAP.names}
    hit: dict[int, int] = {}  # row -> the box that it is the first to find
    target: dict[int, int] = {}  # row -> the box that it looks at and reaches
    for label in NAME:
        boxes = [box for box in truth if box.label == label]
        ranked = sorted((row for row in found if row.label == label), key=lambda row: -row.score)
        for row, is_hit in zip(ranked, mark_hits(ranked, boxes, min_iou), strict=True):
            best = max((box for box in boxes if _meet(row, box)), key=lambda box: iou(row.box, box.box), default=None)
            if best is not None and iou(row.box, best.box) >= min_iou:
                target[id(row)] = id(best)
            if is_hit:
                hit[id(row)] = id(best)
    for row in found:
        if id(row) in kept:
            nearest = max((iou(row.box, box.box) for box in truth if _meet(row, box)), default=0.0)
            counts[NAME[row.label]]["predictions"][
                "correct"
                if id(row) in hit
                else "duplicate"
                if id(row) in target
                else "wrong_action"
                if nearest >= min_iou
                else "poor_localisation"
                if nearest >= 0.1
                else "background"
            ] += 1
    for box in truth:
        near = [row for row in found if _meet(row, box)]
        nearest = max((iou(row.box, box.box) for row in near), default=0.0)
        own = [row for row in near if row.label == box.label and iou(row.box, box.box) >= min_iou]
        counts[NAME[box.label]]["ground_truth"][
            "found"
            if any(hit.get(id(row)) == id(box) and id(row) in kept for row in near)
            else "action_below_cut"
            if any(target.get(id(row)) == id(box) for row in near)
            else "fits_other_person"
            if own
            else "action_not_predicted"
            if nearest >= min_iou
            else "poor_localisation"
            if nearest >= 0.1
            else "missed_person"
        ] += 1
    return counts


def _meet(row: Found, box: Truth) -> bool:
    return (row.video, row.timestamp) == (box.video, box.timestamp)


def kept_rows(found: list[Found], capacity: int) -> set[int]:
    """Ids of the rows that a capacity keeps (0: all)."""
    kept: set[int] = set()
    for key in {(row.video, row.timestamp) for row in found}:
        rows = [row for row in found if (row.video, row.timestamp) == key and row.label in NAME]
        kept |= {id(row) for row in sorted(rows, key=lambda row: -row.score)[: capacity or None]}
    return kept


def without_zeros(side: dict[str, int]) -> dict[str, int]:
    return {outcome: number for outcome, number in side.items() if number}


@given(predictions=predictions, ground_truth=ground_truth, capacity=st.sampled_from([1, 2, 3, 5, 0]))
@settings(max_examples=30)
def test_every_box_and_row_has_the_outcome_of_a_plain_loop(
    predictions: list[Found], ground_truth: list[Truth], capacity: int
) -> None:
    result = stal_eval.evaluate(
        predictions_frame(predictions), ground_truth_frame(ground_truth), LABEL_MAP, capacities=[capacity]
    )
    metrics = result.metrics()
    kept = kept_rows(predictions, capacity)
    cut = {
        id(row)
        for row in predictions
        if id(row) in kept
        and (threshold := metrics["best_f1"][NAME[row.label]]) is not None
        and row.score >= threshold["score"]
    }
    for point, rows in (("chosen", kept), ("at_50", kept_rows(predictions, 50)), ("best_f1", cut)):
        expected = plain_breakdown(predictions, ground_truth, rows)
        per_class = metrics["errors"][point]["per_class"]
        shown = {name: {side: without_zeros(sides[side]) for side in sides} for name, sides in per_class.items()}
        assert shown == expected, point
        for name, sides in per_class.items():
            assert sum(sides["ground_truth"].values()) == metrics["class_counts"][name]["ground_truth"]
            assert sides["ground_truth"]["found"] == sides["predictions"]["correct"]
        overall = metrics["errors"][point]["overall"]
        assert sum(overall["ground_truth"].values()) == metrics["counts"]["scored_ground_truth_rows"]
        assert sum(overall["predictions"].values()) == len(rows)


BOX: Box = (0.0, 0.0, 0.4, 0.4)
SHIFTED: Box = (0.0, 0.0, 0.4, 0.1)  # IoU 0.25 with BOX
FAR: Box = (0.6, 0.6, 1.0, 1.0)


def outcomes(found: list[Found], truth: list[Truth], capacity: int = 50) -> tuple[dict[str, int], dict[str, int]]:
    """Outcomes of the class `walk` at a capacity: of its boxes, and of its rows."""
    frames = predictions_frame(found), ground_truth_frame(truth)
    sides = stal_eval.evaluate(*frames, LABEL_MAP, capacities=[capacity]).metrics()["errors"]["chosen"]["per_class"]
    return without_zeros(sides["walk"]["ground_truth"]), without_zeros(sides["walk"]["predictions"])


@pytest.mark.parametrize(
    ("rows", "of_box", "of_rows"),
    [
        ([Found("a", 0, BOX, 1, 0.9)], "found", {"correct": 1}),
        ([Found("a", 0, BOX, 1, 0.9), Found("a", 0, BOX, 1, 0.8)], "found", {"correct": 1, "duplicate": 1}),
        ([Found("a", 0, FAR, 2, 0.9), Found("a", 0, BOX, 1, 0.1)], "action_below_cut", {}),
        ([Found("a", 0, BOX, 2, 0.9)], "action_not_predicted", {}),
        ([Found("a", 0, SHIFTED, 1, 0.9)], "poor_localisation", {"poor_localisation": 1}),
        ([Found("a", 0, FAR, 1, 0.9)], "missed_person", {"background": 1}),
        ([Found("b", 0, BOX, 1, 0.9)], "missed_person", {"background": 1}),
        ([], "missed_person", {}),
    ],
)
def test_a_single_box_is_found_or_missed_for_one_reason(
    rows: list[Found], of_box: str, of_rows: dict[str, int]
) -> None:
    capacity = 1 if of_box == "action_below_cut" else 50
    assert outcomes(rows, [Truth("a", 0, BOX, 1)], capacity) == ({of_box: 1}, of_rows)


def test_a_row_on_a_person_who_does_something_else_is_a_wrong_action() -> None:
    truth = [Truth("a", 0, BOX, 2), Truth("a", 0, FAR, 1)]
    assert outcomes([Found("a", 0, BOX, 1, 0.9)], truth) == ({"missed_person": 1}, {"wrong_action": 1})


def test_two_people_under_one_box_are_one_found_and_one_that_fits_less() -> None:
    truth = [Truth("a", 0, BOX, 1), Truth("a", 0, (0.0, 0.0, 0.4, 0.36), 1)]
    assert outcomes([Found("a", 0, BOX, 1, 0.9)], truth) == ({"found": 1, "fits_other_person": 1}, {"correct": 1})


def test_the_threshold_is_the_score_of_the_best_f1() -> None:
    truth = [Truth("a", 0, BOX, 1), Truth("b", 0, BOX, 1), Truth("c", 0, BOX, 1)]
    found = [
        Found("a", 0, BOX, 1, 0.9),
        Found("b", 0, FAR, 1, 0.5),  # ties with the next: a threshold keeps both or none
        Found("b", 0, BOX, 1, 0.5),
        Found("c", 0, FAR, 1, 0.4),
    ]
    metrics = stal_eval.evaluate(predictions_frame(found), ground_truth_frame(truth), LABEL_MAP).metrics()
    assert metrics["best_f1"]["walk"] == {
        "score": 0.5,
        "precision": pytest.approx(2 / 3),
        "recall": pytest.approx(2 / 3),
        "f1": pytest.approx(2 / 3),
        "num_rows": 3,
    }
    assert metrics["best_f1"]["wave"] is None
    rows = metrics["errors"]["best_f1"]["overall"]["predictions"]
    assert without_zeros(rows) == {"correct": 2, "background": 1}
