"""Precision-recall curves: their area is AP, and few steps draw what all of them would."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import stal_eval
from stal_data.errors import InputError
from stal_data.keyframes import KeyFrame
from stal_eval.precision_recall import LEVELS, precision_recall
from stal_eval.protocol import PROTOCOLS
from tests.eval.brute_force import Found, Truth
from tests.eval.frames import LABEL_MAP, ground_truth_frame, predictions_frame
from tests.eval.test_sweep import ground_truth, predictions

FIXTURES = Path(__file__).parent / "fixtures"


def area(curve: dict[str, list[float]]) -> float:
    """The sum of width x height of the steps, as a reader of metrics.json would take it."""
    return sum(
        (recall - before) * precision
        for before, recall, precision in zip([0.0, *curve["recall"]], curve["recall"], curve["precision"], strict=False)
    )


def check_areas(metrics: dict[str, dict[str, object]]) -> None:
    for point, per_class in (("chosen", "per_class"), ("at_50", "per_class_at_50")):
        for name, ap in metrics[per_class].items():
            curve = metrics["precision_recall"][point][name]
            if ap is None:
                assert curve is None
                continue
            assert area(curve) == pytest.approx(ap, abs=1e-12), (point, name)
            assert curve["recall"] == sorted(curve["recall"])
            assert curve["precision"] == sorted(curve["precision"], reverse=True)
            assert curve["score"] == sorted(curve["score"], reverse=True)


def test_the_area_under_each_curve_is_the_published_ap_of_its_class() -> None:
    files = (FIXTURES / name for name in ("small_untied_pred.csv.gz", "small_untied_gt.csv", "list_action.pbtxt"))
    metrics = stal_eval.evaluate(*files).metrics()
    check_areas(metrics)
    assert sum(curve is not None for curve in metrics["precision_recall"]["chosen"].values()) == 34


@given(
    predictions=predictions,
    ground_truth=ground_truth,
    protocol=st.sampled_from(sorted(PROTOCOLS)),
    swept=st.sampled_from(["1", "3", "0", "1:5"]),
)
@settings(max_examples=30)
def test_areas_and_breakdowns_add_up_under_every_protocol(
    predictions: list[Found], ground_truth: list[Truth], protocol: str, swept: str
) -> None:
    frames = predictions_frame(predictions), ground_truth_frame(ground_truth)
    excluded = [KeyFrame("a", 0)]
    capacities = swept if PROTOCOLS[protocol].match_order == "score" else None
    options = {"exclusions": excluded, "protocol": protocol, "capacities": capacities}
    try:
        metrics = stal_eval.evaluate(*frames, LABEL_MAP, **options).metrics()
    except InputError:  # all ground truth is excluded
        return
    check_areas(metrics)
    for point, errors in metrics["errors"].items():
        for name, sides in errors["per_class"].items():
            assert sum(sides["ground_truth"].values()) == metrics["class_counts"][name]["ground_truth"], point
            assert sides["ground_truth"]["found"] == sides["predictions"]["correct"]


def test_thinning_bounds_the_steps_and_moves_the_line_by_less_than_a_level() -> None:
    random = np.random.default_rng(0)
    hit_R = random.random(200_000) < np.linspace(0.95, 0.05, 200_000)
    score_R = np.linspace(1, 0, 200_000)
    num_truth = int(hit_R.sum()) + 1000
    curve = precision_recall(hit_R, score_R, num_truth)
    assert len(curve.recall_S) <= LEVELS + 1
    found_R = np.cumsum(hit_R)
    exact_R = np.maximum.accumulate((found_R / np.arange(1, 200_001))[::-1])[::-1]
    recall_R = found_R / num_truth
    drawn_R = curve.precision_S[np.searchsorted(curve.recall_S, recall_R[hit_R])]
    assert np.abs(drawn_R - exact_R[hit_R]).max() < 1 / LEVELS
    assert curve.average_precision == pytest.approx(exact_R[hit_R].sum() / num_truth, abs=1e-12)
    # Each step's score is the lowest of the rows that reach its recall.
    for recall, score in zip(curve.recall_S, curve.score_S, strict=True):
        assert hit_R[score_R >= score].sum() / num_truth == recall


def test_nothing_right_is_an_empty_curve() -> None:
    curve = precision_recall(np.zeros(3, np.bool_), np.array([0.9, 0.5, 0.1]), 4)
    assert curve.plain() == {"recall": [], "precision": [], "score": []}
    assert curve.average_precision == 0.0
