"""Bounds over the orders of equal scores, against every order (or many random ones) scored by the definition."""

import random
from itertools import permutations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import stal_eval
from tests.eval.brute_force import Box, Found, Truth, average_precision
from tests.eval.frames import LABEL_MAP, ground_truth_frame, predictions_frame
from tests.eval.test_sweep import ground_truth, predictions

CAPACITIES = (1, 2, 3, 5, 0)
LABELS = list(LABEL_MAP.ids)
EPSILON = 1e-12
BOX: Box = (0.0, 0.0, 0.5, 0.5)
ELSEWHERE: Box = (0.5, 0.5, 1.0, 1.0)


def bounds(found: list[Found], truth: list[Truth]) -> dict[int, dict[int, tuple[float, float]]]:
    """capacity -> label id -> bounds of its AP; labels without ground truth are left out."""
    result = stal_eval.evaluate(predictions_frame(found), ground_truth_frame(truth), LABEL_MAP, capacities=CAPACITIES)
    ties = result.curve.ties
    assert ties is not None
    return {
        capacity: {
            label: (ties.lower_CK[row, column], ties.upper_CK[row, column])
            for column, label in enumerate(LABELS)
            if result.truth_count_K[column]
        }
        for row, capacity in enumerate(result.capacities)
    }


def cut_key_frames(found: list[Found], capacity: int) -> int:
    known = [row for row in found if row.label in LABEL_MAP]
    cut = 0
    for key in {(row.video, row.timestamp) for row in known}:
        scores = sorted((row.score for row in known if (row.video, row.timestamp) == key), reverse=True)
        cut += 0 < capacity < len(scores) and scores[capacity - 1] == scores[capacity]
    return cut


@given(found=predictions, truth=ground_truth, seed=st.integers(0, 1000))
@settings(max_examples=30)
def test_every_random_order_of_ties_lies_within_the_bounds(found: list[Found], truth: list[Truth], seed: int) -> None:
    limits = bounds(found, truth)
    shuffled = list(found)
    for _ in range(5):
        random.Random(seed).shuffle(shuffled)
        seed += 1
        for capacity, by_label in limits.items():
            ap_of = average_precision(shuffled, truth, LABELS, capacity)
            for label, (lower, upper) in by_label.items():
                ap = ap_of[label]
                assert ap is not None
                assert lower - EPSILON <= ap <= upper + EPSILON, (capacity, label)


_crowded = st.builds(
    Found,
    video=st.sampled_from(["a", "b"]),
    timestamp=st.just(0),
    box=st.sampled_from([BOX, ELSEWHERE, (0.0, 0.0, 0.5, 0.4)]),
    label=st.sampled_from([1, 2]),
    score=st.sampled_from([0.5, 0.6]),
)
_few_truths = st.lists(
    st.builds(
        Truth, video=st.sampled_from(["a", "b"]), timestamp=st.just(0), box=st.just(BOX), label=st.sampled_from([1, 2])
    ),
    min_size=1,
    max_size=4,
)


@given(found=st.lists(_crowded, min_size=1, max_size=5), truth=_few_truths)
@settings(max_examples=30)
def test_the_bounds_are_attained_when_no_tie_crosses_the_cut(found: list[Found], truth: list[Truth]) -> None:
    limits = bounds(found, truth)
    orders = [list(order) for order in permutations(found)]
    for capacity, by_label in limits.items():
        if cut_key_frames(found, capacity):
            continue
        scores = [average_precision(order, truth, LABELS, capacity) for order in orders]
        for side, extreme in ((0, min), (1, max)):
            for label, limit in by_label.items():
                assert limit[side] == pytest.approx(extreme(ap_of[label] for ap_of in scores), abs=EPSILON)
            # All classes at once too, so the mean is attained.
            mean = sum(limit[side] for limit in by_label.values()) / len(by_label)
            attained = extreme(sum(ap_of[label] or 0.0 for label in by_label) / len(by_label) for ap_of in scores)
            assert mean == pytest.approx(attained, abs=EPSILON)


@given(found=predictions, truth=ground_truth)
@settings(max_examples=25)
def test_without_ties_the_bounds_are_the_map_itself(found: list[Found], truth: list[Truth]) -> None:
    untied = [Found(r.video, r.timestamp, r.box, r.label, index / 64) for index, r in enumerate(found)]
    result = stal_eval.evaluate(predictions_frame(untied), ground_truth_frame(truth), LABEL_MAP, capacities=CAPACITIES)
    limits = result.curve.mean_bounds_C()
    assert limits is not None
    assert limits[0].tolist() == result.mean_ap_C.tolist() == limits[1].tolist()
    assert result.tied_rows == 0


@given(found=predictions, truth=ground_truth)
@settings(max_examples=25)
def test_cut_key_frames_and_tied_rows_are_counted(found: list[Found], truth: list[Truth]) -> None:
    result = stal_eval.evaluate(predictions_frame(found), ground_truth_frame(truth), LABEL_MAP, capacities=CAPACITIES)
    assert result.curve.ties is not None
    expected = [cut_key_frames(found, capacity) for capacity in result.capacities]
    assert result.curve.ties.cut_key_frames_C.tolist() == expected
    groups = [(row.label, row.score) for row in found if row.label in LABEL_MAP]
    assert result.tied_rows == sum(groups.count(group) > 1 for group in groups)


def test_wide_bounds_are_warned_about_and_written() -> None:
    found = [Found("a", 0, BOX, 1, 0.5), Found("a", 0, ELSEWHERE, 1, 0.5)]
    frames = predictions_frame(found), ground_truth_frame([Truth("a", 0, BOX, 1)])
    result = stal_eval.evaluate(*frames, LABEL_MAP, capacities=[1, 50])
    metrics = result.metrics()
    assert (metrics["mAP"], metrics["mAP_lower"], metrics["mAP_upper"]) == ([1.0, 1.0], [0.0, 0.5], [1.0, 1.0])
    assert metrics["key_frames_cut_inside_tie"] == [1, 0]
    assert metrics["ties"]["tied_rows_share"] == 1.0
    assert metrics["ties"]["at_50"] == {"mAP_lower": 0.5, "mAP_upper": 1.0}
    assert "Equal scores leave mAP open" in metrics["warnings"][0]
    without = stal_eval.evaluate(*frames, LABEL_MAP, tie_bounds=False).metrics()
    assert "mAP_lower" not in without
    assert without["ties"] == {"tied_rows": 2, "tied_rows_share": 1.0}
