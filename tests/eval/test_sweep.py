"""The one-pass sweep against the published evaluator's figures and against the definition."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import stal_eval
from stal_eval.ranking import descending
from tests.eval.brute_force import Box, Found, Truth, average_precision
from tests.eval.frames import LABEL_MAP, ground_truth_frame, predictions_frame
from tests.tolerances import MEAN_AP, check

FIXTURES = Path(__file__).parent / "fixtures"
CAPACITIES = (1, 2, 3, 5, 50, 0)


def test_sweep_equals_the_published_evaluator_at_every_listed_capacity() -> None:
    reference = json.loads((FIXTURES / "small_untied_ref.json").read_text())
    result = stal_eval.evaluate(
        FIXTURES / "small_untied_pred.csv.gz",
        FIXTURES / "small_untied_gt.csv",
        FIXTURES / "list_action.pbtxt",
        capacities=map(int, reference),
    )
    assert set(result.capacities) == set(map(int, reference))
    means = [reference[str(capacity)]["PascalBoxes_Precision/mAP@0.5IOU"] for capacity in result.capacities]
    check("mAP", max(abs(a - b) for a, b in zip(result.mean_ap_C, means, strict=True)), MEAN_AP)
    for capacity in result.capacities:
        expected = reference[str(capacity)]
        for name, ap in result.per_class(capacity).items():
            expected_ap = expected[f"PascalBoxes_PerformanceByCategory/AP@0.5IOU/{name}"]
            assert ap == (None if expected_ap is None else pytest.approx(expected_ap, abs=MEAN_AP)), (capacity, name)


# A coarse grid, so that boxes coincide, IoUs are equal and some are exactly one half; few scores, so that many tie.
_coordinates = st.tuples(st.integers(0, 4), st.integers(0, 4)).filter(lambda pair: pair[0] != pair[1]).map(sorted)
boxes = st.builds(lambda x, y: (x[0] / 4, y[0] / 4, x[1] / 4, y[1] / 4), _coordinates, _coordinates)
_places = {
    "video": st.sampled_from(["a", "b"]),
    "timestamp": st.integers(0, 1),
    "box": boxes,
    "label": st.integers(1, 4),
}
tied_scores = st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0])
predictions = st.lists(st.builds(Found, **_places, score=tied_scores), max_size=25)
ground_truth = st.lists(st.builds(Truth, **_places), min_size=1, max_size=12).filter(
    lambda rows: any(row.label in LABEL_MAP for row in rows)
)


@given(predictions=predictions, ground_truth=ground_truth)
@settings(max_examples=50)
def test_sweep_equals_the_definition_ties_included(predictions: list[Found], ground_truth: list[Truth]) -> None:
    result = stal_eval.evaluate(
        predictions_frame(predictions), ground_truth_frame(ground_truth), LABEL_MAP, capacities=CAPACITIES
    )
    for capacity, mean in zip(result.capacities, result.mean_ap_C, strict=True):
        by_label = average_precision(predictions, ground_truth, list(LABEL_MAP.ids), capacity)
        expected = dict(zip(LABEL_MAP.names, by_label.values(), strict=True))
        scored = [ap for ap in expected.values() if ap is not None]
        assert result.per_class(capacity) == {
            name: None if ap is None else pytest.approx(ap, abs=1e-12) for name, ap in expected.items()
        }
        assert mean == pytest.approx(sum(scored) / len(scored), abs=1e-12)


BOX: Box = (0.0, 0.0, 0.5, 0.5)
ELSEWHERE: Box = (0.5, 0.5, 1.0, 1.0)


def evaluate(found: list[Found], truth: list[Truth], **options: object) -> stal_eval.Evaluation:
    return stal_eval.evaluate(predictions_frame(found), ground_truth_frame(truth), LABEL_MAP, **options)


@pytest.mark.parametrize("values", [3, 1000, 70_000, 10**9])
def test_rows_are_ordered_like_a_stable_sort_however_many_tie(values: int) -> None:
    score_N = np.random.default_rng(values).integers(-values, values, 200_000) / values
    score_N[::1000] = -0.0
    assert descending(score_N).tolist() == np.argsort(-score_N, kind="stable").tolist()


def test_equal_scores_rank_in_file_order() -> None:
    right, wrong = Found("a", 0, BOX, 1, 0.5), Found("a", 0, ELSEWHERE, 1, 0.5)
    truth = [Truth("a", 0, BOX, 1)]
    assert evaluate([right, wrong], truth).per_class(50)["walk"] == 1.0
    assert evaluate([wrong, right], truth).per_class(50)["walk"] == 0.5


def test_a_capacity_cuts_over_all_classes_of_the_label_map_but_rows_outside_it_take_no_place() -> None:
    truth = [Truth("a", 0, BOX, 1)]
    right, other = Found("a", 0, BOX, 1, 0.5), Found("a", 0, BOX, 2, 0.9)
    assert evaluate([other, right], truth, capacities=[1]).best.mean_ap == 0.0
    unknown = Found("a", 0, BOX, 3, 0.9)
    result = evaluate([unknown, right], truth, capacities=[1])
    assert result.best.mean_ap == 1.0
    assert result.counts.prediction_rows_outside_label_map == 1


def test_rows_on_key_frames_without_ground_truth_are_false_positives() -> None:
    truth = [Truth("a", 0, BOX, 1)]
    elsewhere, right = Found("b", 7, BOX, 1, 0.9), Found("a", 0, BOX, 1, 0.5)
    result = evaluate([elsewhere, right], truth)
    assert result.best.mean_ap == 0.5
    assert result.counts.prediction_rows_without_ground_truth == 1


def test_a_row_looks_only_at_the_box_with_the_highest_iou() -> None:
    near: Box = (0.0, 0.0, 0.5, 0.45)
    truth = [Truth("a", 0, BOX, 1), Truth("a", 0, near, 1)]
    # Both rows fit the first box best: the second one is a duplicate although the other box is still free.
    found = [Found("a", 0, BOX, 1, 0.9), Found("a", 0, BOX, 1, 0.8)]
    assert evaluate(found, truth).per_class(50)["walk"] == 0.5


def test_classes_without_ground_truth_are_none_and_without_predictions_zero() -> None:
    truth = [Truth("a", 0, BOX, 1), Truth("a", 0, BOX, 2)]
    result = evaluate([Found("a", 0, BOX, 1, 0.9), Found("a", 0, BOX, 4, 0.8)], truth)
    assert result.per_class() == {"walk": 1.0, "wave": 0.0, "watch": None}
    assert result.best.mean_ap == 0.5


def test_the_best_capacity_is_the_smallest_of_equals_and_50_is_always_told() -> None:
    rows = [Found("a", 0, ELSEWHERE, 1, 0.9)] * 60 + [Found("a", 0, BOX, 1, 0.1)]
    result = evaluate(rows, [Truth("a", 0, BOX, 1)], capacities="60:70")
    assert (result.best.capacity, result.best.mean_ap) == (61, pytest.approx(1 / 61))
    assert result.mean_ap_at_50 == 0.0
    assert result.mean_ap_C.tolist() == [0.0] + [pytest.approx(1 / 61)] * 9


def test_iou_of_exactly_the_threshold_counts() -> None:
    half: Box = (0.0, 0.0, 0.5, 0.25)
    truth = [Truth("a", 0, BOX, 1)]
    assert evaluate([Found("a", 0, half, 1, 0.9)], truth).best.mean_ap == 1.0
    assert evaluate([Found("a", 0, half, 1, 0.9)], truth, iou=0.51).best.mean_ap == 0.0
