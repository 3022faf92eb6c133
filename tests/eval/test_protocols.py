"""Every protocol against the evaluator of its code base, and every field on data where it matters."""

import random
from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import stal_eval
from stal_data.errors import InputError
from stal_data.keyframes import KeyFrame
from stal_eval.cut_ties import heap_arrays, heap_ranks
from stal_eval.protocol import PROTOCOLS, Protocol, recorded_fields
from stal_eval.rounding import round_decimals
from tests.eval import protocol_reference as reference
from tests.eval.brute_force import Box, Found, Truth
from tests.eval.frames import LABEL_MAP, ground_truth_frame, predictions_frame

RANKED = ["published", "ava", "pyslowfast", "mmaction2"]
LABELS = list(LABEL_MAP.ids)
EPSILON = 1e-12
BOX: Box = (0.0, 0.0, 0.5, 0.5)
HALF: Box = (0.0, 0.0, 0.5, 0.25)
EMPTY: Box = (0.2, 0.2, 0.2, 0.4)
ELSEWHERE: Box = (0.5, 0.5, 1.0, 1.0)
# The last one lies as near to the first as to the second.
NEAR: tuple[Box, ...] = (BOX, (0.25, 0.0, 0.75, 0.5), (0.125, 0.0, 0.625, 0.5))
_place = {"video": st.sampled_from(["a", "b"]), "timestamp": st.integers(0, 1), "label": st.sampled_from([1, 1, 2, 3])}
crowded_predictions = st.lists(
    st.builds(Found, **_place, box=st.sampled_from([*NEAR, ELSEWHERE, EMPTY]), score=st.sampled_from([0.25, 0.5])),
    min_size=1,
    max_size=20,
)
crowded_truth = st.lists(st.builds(Truth, **_place, box=st.sampled_from(NEAR)), min_size=1, max_size=6)
exclusions = st.sets(st.tuples(st.sampled_from(["a", "b"]), st.integers(0, 1)), max_size=2)


def evaluate(found: list[Found], truth: list[Truth], protocol: object, **options: object) -> stal_eval.Evaluation:
    return stal_eval.evaluate(
        predictions_frame(found), ground_truth_frame(truth), LABEL_MAP, protocol=protocol, **options
    )


def is_scorable(truth: list[Truth], excluded: set[tuple[str, int]]) -> bool:
    return any(row.label in LABEL_MAP and reference.key_of(row) not in excluded for row in truth)


def nearly(values: list[float | None]) -> list[object]:
    return [None if value is None else pytest.approx(value, abs=EPSILON) for value in values]


def with_repeats(found: list[Found], seed: int) -> list[Found]:
    """Repeat all rows of each key frame, as published files do."""
    chance = random.Random(seed)
    times = {key: chance.randint(1, 3) for key in sorted({reference.key_of(row) for row in found})}
    return [row for time in range(3) for row in found if time < times[reference.key_of(row)]]


def capacities_of(name: str) -> tuple[int, ...]:
    return (1, 2, 3, 5, 50, 0) if PROTOCOLS[name].cut_ties == "heap" else (0,)


def reference_scores(
    name: str,
    found: list[Found],
    truth: list[Truth],
    excluded: set[tuple[str, int]],
    rank: reference.Rank,
    capacity: int,
) -> reference.Scores:
    options = {"capacity": capacity} if PROTOCOLS[name].cut_ties == "heap" else {}
    scores: reference.Scores = getattr(reference, name)(found, truth, LABELS, excluded, rank, **options)
    return scores


@pytest.mark.parametrize("tie_order", ["argsort", "reversed_stable"])
@pytest.mark.parametrize("name", RANKED)
@given(found=crowded_predictions, truth=crowded_truth, excluded=exclusions, seed=st.integers(0, 99))
@settings(max_examples=25)
def test_protocols_equal_their_evaluator_ties_and_repeats_included(
    name: str, tie_order: str, found: list[Found], truth: list[Truth], excluded: set[tuple[str, int]], seed: int
) -> None:
    if not is_scorable(truth, excluded):
        return
    found = with_repeats(found, seed)
    result = evaluate(
        found,
        truth,
        replace(PROTOCOLS[name], tie_order=tie_order),
        exclusions=[KeyFrame(key[0], 1000 * key[1]) for key in excluded],
        capacities=capacities_of(name),
    )
    assert result.curve_is_exact
    for capacity, mean in zip(result.capacities, result.mean_ap_C, strict=True):
        expected = reference_scores(name, found, truth, excluded, reference.RANKS[tie_order], capacity)
        assert list(result.per_class(capacity).values()) == nearly([expected[label] for label in LABELS])
        scored = [value for value in expected.values() if value is not None]
        assert mean == pytest.approx(sum(scored) / len(scored) if scored else 0.0, abs=EPSILON)


@pytest.mark.parametrize("name", RANKED)
@given(found=crowded_predictions, truth=crowded_truth, excluded=exclusions, seed=st.integers(0, 99))
@settings(max_examples=25)
def test_the_bounds_hold_for_any_ranking_of_equal_scores(
    name: str, found: list[Found], truth: list[Truth], excluded: set[tuple[str, int]], seed: int
) -> None:
    if not is_scorable(truth, excluded):
        return
    found = with_repeats(found, seed)
    listed = [KeyFrame(key[0], 1000 * key[1]) for key in excluded]
    result = evaluate(found, truth, name, exclusions=listed, capacities=capacities_of(name))
    bounds = result.curve.ties
    assert bounds is not None
    rank = reference.at_random(seed)
    for _ in range(3):
        for row, capacity in enumerate(result.capacities):
            expected = reference_scores(name, found, truth, excluded, rank, capacity)
            for column, label in enumerate(LABELS):
                if (value := expected[label]) is not None:
                    lower, upper = bounds.lower_CK[row, column], bounds.upper_CK[row, column]
                    assert lower - EPSILON <= value <= upper + EPSILON, (capacity, label)


@given(rows=st.lists(st.tuples(st.integers(0, 3), st.integers(1, 3), st.integers(0, 2)), min_size=1, max_size=40))
@settings(max_examples=100)
def test_the_heap_is_that_of_heapq_in_content_and_order(rows: list[tuple[int, int, int]]) -> None:
    found = [Found("a", 0, (x / 4, 0.0, 1.0, 1.0), label, score / 4) for score, label, x in rows]
    for capacity in range(1, len(found) + 1):
        left = heap_arrays(
            np.arange(len(found)),
            np.array([row.score for row in found]),
            np.array([row.label for row in found], np.int32),
            np.array([row.box for row in found]),
            np.array([0, len(found)]),
            capacity,
        )
        best_first = sorted((found[row] for row in left.tolist()), key=lambda row: -row.score)
        assert best_first == reference.heap_keeps(found, capacity)


@given(rows=st.lists(st.tuples(st.sampled_from([0.1, 0.2, 0.3]), st.integers(1, 3), st.integers(0, 3)), min_size=1))
@settings(max_examples=200)
def test_the_order_of_equal_scores_keeps_what_the_heap_keeps_at_every_capacity(
    rows: list[tuple[float, int, int]],
) -> None:
    found = [Found("a", 0, (x / 4, 0.0, 1.0, 1.0), label, score) for score, label, x in rows]
    order = sorted(range(len(found)), key=lambda row: -found[row].score)
    ranked = heap_ranks(
        np.array(order),
        np.array([row.score for row in found]),
        np.array([row.label for row in found], np.int32),
        np.array([row.box for row in found]),
        np.array([0, len(found)]),
    )
    for capacity in range(1, len(found) + 1):
        kept = [found[row] for row in ranked[:capacity].tolist()]
        assert sorted(map(str, kept)) == sorted(map(str, reference.heap_keeps(found, capacity)))


@given(value=st.floats(-10, 10_000), decimals=st.integers(0, 6))
def test_rounding_is_that_of_writing_and_reading(value: float, decimals: int) -> None:
    assert round_decimals(np.array([value]), decimals).tolist() == [reference.written(value, decimals)]


@pytest.mark.parametrize("value", [0.0005, 0.0015, 0.0025, 0.5005, 0.4995, 1e300])
def test_halves_round_as_text_does(value: float) -> None:
    assert round_decimals(np.array([value]), 3).tolist() == [float(f"{value:.3f}")]


TRUTH = [Truth("a", 0, BOX, 1)]
RIGHT = Found("a", 0, BOX, 1, 0.5)
STAL = PROTOCOLS["stal"]


def ap(found: list[Found], truth: list[Truth], protocol: Protocol, **options: object) -> float:
    return evaluate(found, truth, protocol, **options).mean_ap


def test_min_score_drops_rows_at_or_below_it() -> None:
    wrong = Found("a", 0, ELSEWHERE, 1, 0.6)
    assert ap([wrong, RIGHT], TRUTH, STAL) == 0.5
    dropped = evaluate([RIGHT], TRUTH, replace(STAL, min_score=0.5))
    assert dropped.mean_ap == 0.0
    assert dropped.counts.prediction_rows_below_min_score == 1
    assert "No prediction row is left" in dropped.warnings[0]


def test_rounded_scores_tie_and_rounded_boxes_match() -> None:
    wrong, right = Found("a", 0, ELSEWHERE, 1, 0.50041), replace(RIGHT, score=0.50049)
    assert ap([wrong, right], TRUTH, STAL) == 1.0
    assert ap([wrong, right], TRUTH, replace(STAL, score_decimals=3)) == 0.5  # now file order decides
    nearly_half = replace(RIGHT, box=(0.0, 0.0, 0.5, 0.2496))
    assert ap([nearly_half], TRUTH, STAL) == 0.0
    assert ap([nearly_half], TRUTH, replace(STAL, box_decimals=3)) == 1.0


def test_exclusions_are_left_out_ignored_or_recalled() -> None:
    found, truth = [RIGHT, replace(RIGHT, timestamp=1)], [*TRUTH, Truth("a", 1, ELSEWHERE, 1)]
    excluded = [KeyFrame("a", 1000)]
    assert ap(found, truth, STAL, exclusions=excluded) == 1.0
    assert ap(found, truth, replace(STAL, exclusions="ignored"), exclusions=excluded) == 0.5
    recalled = evaluate(found, truth, replace(STAL, exclusions="left_out_but_recalled"), exclusions=excluded)
    assert recalled.mean_ap == 0.5
    assert recalled.truth_count_K.tolist() == [2, 0, 0]
    assert recalled.counts.scored_ground_truth_rows == 1


def test_predictions_on_key_frames_without_ground_truth_are_wrong_or_not_scored() -> None:
    found = [replace(RIGHT, timestamp=7, score=0.9), RIGHT]
    assert ap(found, TRUTH, STAL) == 0.5
    result = evaluate(found, TRUTH, replace(STAL, frames="with_ground_truth"))
    assert result.mean_ap == 1.0
    assert result.counts.prediction_rows_without_ground_truth == 1
    assert result.counts.scored_prediction_rows == 1


def test_a_better_row_drives_the_lowest_label_out_of_the_heap() -> None:
    found = [RIGHT, replace(RIGHT, label=2), replace(RIGHT, label=4, score=0.9)]
    truth = [Truth("a", 0, BOX, label) for label in (1, 2, 4)]
    kept_first = evaluate(found, truth, STAL, capacities=[2]).per_class()
    assert kept_first == {"walk": 1.0, "wave": 0.0, "watch": 1.0}
    heap = evaluate(found, truth, "ava", capacities=[2]).per_class()
    assert heap == {"walk": 0.0, "wave": 1.0, "watch": 1.0}


def test_empty_boxes_are_wrong_or_vanish_after_taking_their_place() -> None:
    empty = replace(RIGHT, box=EMPTY, score=0.9)
    assert ap([empty, RIGHT], TRUTH, STAL) == 0.5
    vanish = replace(STAL, empty_boxes="left_out")
    assert ap([empty, RIGHT], TRUTH, vanish) == 1.0
    result = evaluate([empty, RIGHT], TRUTH, vanish, capacities=[1])
    assert result.mean_ap == 0.0
    assert result.counts.prediction_rows_with_empty_box == 1


def test_a_box_belongs_to_the_best_row_or_to_the_first_of_the_file() -> None:
    found = [replace(RIGHT, score=0.2), replace(RIGHT, score=0.9)]
    assert ap(found, TRUTH, STAL) == 1.0
    result = evaluate(found, TRUTH, "pyslowfast")
    assert result.mean_ap == 0.5
    # At capacity 50 as well, and where the capacity drops the first of the file, the other has the box.
    assert result.mean_ap_at_50 == 0.5
    better = [replace(RIGHT, box=ELSEWHERE, score=0.5)] * 49
    assert evaluate([found[0], *better, found[1]], TRUTH, "pyslowfast").mean_ap == pytest.approx(1 / 51)
    assert evaluate([found[0], *better, found[1]], TRUTH, "pyslowfast").mean_ap_at_50 == 1.0


def test_of_two_boxes_as_near_the_heap_decides_which_is_looked_at() -> None:
    left, right, between = NEAR
    truth = [Truth("a", 0, right, 1), Truth("a", 0, left, 1)]
    found = [Found("a", 0, between, 1, 0.9), Found("a", 0, right, 1, 0.5)]
    assert ap(found, truth, STAL) == 0.5  # both look at the box on the right, the first of the file
    assert ap(found, truth, PROTOCOLS["ava"]) == 1.0  # the heap has the box on the left before it


def test_equal_scores_rank_as_matched_or_the_last_first() -> None:
    twice = [RIGHT, RIGHT]
    assert ap(twice, TRUTH, STAL) == 1.0
    assert ap(twice, TRUTH, replace(STAL, tie_order="reversed_stable")) == 0.5
    of_two_key_frames = [RIGHT, replace(RIGHT, timestamp=1)]
    assert ap(of_two_key_frames, TRUTH, STAL) == 1.0
    assert ap(of_two_key_frames, TRUTH, replace(STAL, tie_order="reversed_stable")) == 0.5
    # Annotated key frames alone, in the order of the ground truth: the first is wrong, so the right one comes first.
    truth = [Truth("a", 1, ELSEWHERE, 1), Truth("a", 0, BOX, 1)]
    annotated = replace(STAL, tie_order="reversed_stable", frames="with_ground_truth")
    assert ap(of_two_key_frames, truth, annotated) == 0.5
    assert ap(of_two_key_frames, truth, replace(annotated, frames="all")) == 0.25


def test_in_float32_an_iou_of_nearly_the_threshold_reaches_it() -> None:
    nearly: Box = (0.0, 0.0, 0.5, 0.25 - 1e-9)
    assert ap([replace(RIGHT, box=nearly)], TRUTH, STAL) == 0.0
    assert ap([replace(RIGHT, box=nearly)], TRUTH, replace(STAL, precision="float32")) == 1.0


def test_classes_without_predictions_are_zero_or_not_in_the_mean() -> None:
    truth = [*TRUTH, Truth("a", 0, BOX, 2)]
    assert ap([RIGHT], truth, STAL) == 0.5
    result = evaluate([RIGHT], truth, replace(STAL, classes="with_ground_truth_and_predictions"))
    assert result.mean_ap == 1.0
    assert result.metrics()["classes"]["in_mean"] == 1
    assert result.per_class()["wave"] is None


def test_every_field_of_the_protocol_is_in_the_metrics() -> None:
    for name, preset in PROTOCOLS.items():
        described = evaluate([RIGHT], TRUTH, name).metrics()["protocol"]
        assert described.keys() == {item.name for item in fields(Protocol)} | {"changed_fields"}
        assert described == preset.describe()
        assert described["changed_fields"] == []
    changed = evaluate([RIGHT], TRUTH, "ava", capacities=[10, 11, 12, 50], iou=0.6).metrics()["protocol"]
    assert (changed["name"], changed["capacities"], changed["iou"]) == ("ava", "10:13,50", 0.6)
    assert changed["changed_fields"] == ["capacities", "iou"]


def test_bad_protocols_name_the_rule() -> None:
    with pytest.raises(InputError, match=r"no protocol 'pyslowfst'. .*'pyslowfast'"):
        evaluate([RIGHT], TRUTH, "pyslowfst")
    with pytest.raises(InputError, match="the protocol pyslowfast keeps every row"):
        evaluate([RIGHT], TRUTH, "pyslowfast", capacities="50:60")
    with pytest.raises(InputError, match="cut_ties is 'random', but must be one of file_order, heap"):
        Protocol(name="own", cut_ties="random")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="tie_order is 'file', which is for rows that match boxes by score"):
        Protocol(name="own", match_order="file_order", capacities="0")
    with pytest.raises(InputError, match="score_decimals is 12, but must be from 0 to 6"):
        Protocol(name="own", score_decimals=12)


def test_results_of_earlier_versions_name_the_order_of_matches_otherwise() -> None:
    assert recorded_fields({"claim_order": "score"}) == {
        "match_order": "score",
        "precision": "float64",
        "tie_order": "file",
    }
