"""video-mAP against the definition that the code bases write down: contiguous tubes, mean box IoU x IoU in time."""

from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import stal_eval
from stal_data.errors import InputError
from stal_eval import Requested
from stal_eval.tubes.video_map import TUBE_IOUS
from tests.eval.brute_force import Box, area_under_curve, iou
from tests.eval.frames import GROUND_TRUTH, LABEL_MAP, PREDICTIONS

LABEL_IDS = list(LABEL_MAP.ids)


class Tube(NamedTuple):
    video: str
    label: int
    start: int
    boxes: tuple[Box, ...]
    score: float


def video_map(found: pd.DataFrame, truth: pd.DataFrame, protocol: str = "moc") -> dict[str, Any]:
    options = {"capacities": [1], "tie_bounds": False, "requested": Requested(tubes=protocol)}
    entry: dict[str, Any] = stal_eval.evaluate(found, truth, LABEL_MAP, **options).optional["video_mAP"]
    return entry


def frames(found: list[Tube], truth: list[Tube]) -> tuple[pd.DataFrame, pd.DataFrame]:
    def rows(tubes: list[Tube]) -> list[tuple[Any, ...]]:
        return [
            (tube.video, tube.start + n, *box, tube.label, tube.score, person)
            for person, tube in enumerate(tubes)
            for n, box in enumerate(tube.boxes)
        ]

    predictions = pd.DataFrame(rows(found), columns=[*PREDICTIONS, "person"])
    return predictions, pd.DataFrame(rows(truth), columns=[*PREDICTIONS, "person"]).drop(columns="score")


def tube_iou(a: Tube, b: Tube, min_common: int) -> float:
    first, last = max(a.start, b.start), min(a.start + len(a.boxes), b.start + len(b.boxes))
    if last - first < min_common:
        return 0.0
    union = max(a.start + len(a.boxes), b.start + len(b.boxes)) - min(a.start, b.start)
    spatial = [iou(a.boxes[n - a.start], b.boxes[n - b.start]) for n in range(first, last)]
    return sum(spatial) / len(spatial) * (last - first) / union


def plain_ap(found: list[Tube], truth: list[Tube], min_iou: float, moc: bool) -> float:
    """AP of one class."""
    ranked: list[Tube] = []
    for tube in sorted(found, key=lambda tube: -tube.score):
        if not moc or all(tube_iou(tube, better, 1) <= 0.3 for better in ranked if better.video == tube.video):
            ranked.append(tube)
    left, hits = list(truth), []
    for tube in ranked:
        here = [other for other in left if other.video == tube.video]
        best = max(here, key=lambda other: tube_iou(tube, other, 1 if moc else 2), default=None)
        reached = 0.0 if best is None else tube_iou(tube, best, 1 if moc else 2)
        hits.append(reached >= min_iou if moc else reached > min_iou)
        if best is not None and hits[-1]:
            left.remove(best)
    if not moc:
        return area_under_curve(hits, len(truth))
    points = [(0.0, 1.0)] + [(sum(hits[:n]) / len(truth), sum(hits[:n]) / n) for n in range(1, len(hits) + 1)]
    return sum((b[0] - a[0]) * (a[1] + b[1]) / 2 for a, b in pairwise(points))


# Boxes of few shapes, so that tubes overlap; IoUs that are no threshold, so that rounding decides nothing.
_box = st.builds(lambda x, w: (0.1 * x, 0.1, 0.1 * x + w, 0.7), st.integers(0, 3), st.sampled_from([0.31, 0.37]))
_tubes = st.builds(
    Tube,
    video=st.sampled_from(["a", "b"]),
    label=st.sampled_from(LABEL_IDS[:2]),
    start=st.integers(0, 3),
    boxes=st.lists(_box, min_size=1, max_size=4).map(tuple),
    score=st.just(0.0),
)


@given(
    found=st.lists(_tubes, max_size=10),
    truth=st.lists(_tubes, min_size=1, max_size=5),
    order=st.randoms(use_true_random=False),
    protocol=st.sampled_from(["moc", "ucf101-24"]),
)
@settings(max_examples=30)
def test_video_map_equals_the_definition(found: list[Tube], truth: list[Tube], order: Any, protocol: str) -> None:
    scores = order.sample(range(1, 32), len(found))
    found = [tube._replace(score=score / 32) for tube, score in zip(found, scores, strict=True)]
    truth = [*truth, Tube("c", 1, 0, ((0.1, 0.1, 0.3, 0.3),) * 2, 0.0)]  # so that key frames are one second apart
    entry = video_map(*frames(found, truth), protocol)
    for place, min_iou in enumerate(TUBE_IOUS):
        for label, name in zip(LABEL_IDS, LABEL_MAP.names, strict=True):
            of_class = [[tube for tube in tubes if tube.label == label] for tubes in (found, truth)]
            if not of_class[1]:
                assert entry["per_class"][name] is None
                continue
            expected = plain_ap(*of_class, min_iou, protocol == "moc")
            assert entry["per_class"][name][place] == pytest.approx(expected, abs=1e-12)
    scored = [ap_I for ap_I in entry["per_class"].values() if ap_I is not None]
    assert entry["mAP"] == pytest.approx(np.mean(scored, axis=0), abs=1e-12)
    assert entry["mAP_50_95"] == pytest.approx(np.mean(entry["mAP"][1:]), abs=1e-12)


BOX: Box = (0.1, 0.1, 0.5, 0.5)


def truth_rows(*rows: tuple[float, object]) -> pd.DataFrame:
    return pd.DataFrame([("a", time, *BOX, 1, person) for time, person in rows], columns=[*GROUND_TRUTH, "person"])


def found_rows(*rows: tuple[float, float, object]) -> pd.DataFrame:
    return pd.DataFrame(
        [("a", time, *BOX, 1, score, person) for time, score, person in rows], columns=[*PREDICTIONS, "person"]
    )


def test_a_pause_makes_two_tubes_and_the_ground_truth_says_how_long_a_pause_is() -> None:
    truth = truth_rows((0, 7), (0.2, 7), (0.6, 7), (0.8, 7))
    entry = video_map(found_rows((0, 0.5, 1), (0.2, 0.5, 1), (0.6, 0.5, 1), (0.8, 0.5, 1)), truth)
    assert (entry["max_gap_s"], entry["ground_truth_tubes"], entry["prediction_tubes"]) == (0.2, 2, 2)
    assert entry["mAP_50_95"] == 1


def test_a_box_without_a_person_is_a_tube_of_its_own() -> None:
    truth = truth_rows((0, "x"), (1, "x"), (2, "-1"), (3, None))
    entry = video_map(found_rows((0, 0.5, ""), (1, 0.5, 4), (2, 0.5, 4)), truth)
    assert (entry["ground_truth_tubes"], entry["ground_truth_rows_without_person"]) == (3, 2)
    assert (entry["prediction_tubes"], entry["prediction_rows_without_person"]) == (2, 1)


def test_rows_that_are_the_same_in_all_count_once() -> None:
    truth = truth_rows((0, 1), (1, 1))
    entry = video_map(found_rows((0, 0.5, 1), (0, 0.5, 1), (1, 0.25, 1)), pd.concat([truth, truth], ignore_index=True))
    assert (entry["ground_truth_tubes"], entry["prediction_tubes"], entry["mAP_50_95"]) == (1, 1, 1)


def test_a_single_shared_key_frame_is_nothing_to_the_toolkit_of_ucf101_24() -> None:
    frames = found_rows((0, 0.5, 1)), truth_rows((0, 1))
    assert [video_map(*frames, protocol)["mAP"][0] for protocol in ("moc", "ucf101-24")] == [1, 0]


def beside(*places: float) -> list[Tube]:
    """Tubes of one label, two boxes each, 0.4 wide, from these x on; the first scores best."""
    return [Tube("a", 1, 0, ((x, 0.1, x + 0.4, 0.5),) * 2, 1 / (n + 1)) for n, x in enumerate(places)]


def test_a_suppressed_tube_suppresses_no_other() -> None:
    entry = video_map(*frames(beside(0.0, 0.2, 0.4), beside(0.4)))  # IoUs of 1/3 and 0
    assert entry["suppressed_prediction_tubes"] == 1
    assert entry["per_class"]["walk"][1] == pytest.approx(0.25)  # found by the second tube that is left


def test_a_tube_takes_the_one_that_it_fits_best_and_leaves_the_rest() -> None:
    found, truth = beside(0.3, 0.42), beside(0.32, 0.22)  # IoUs of 0.90 and 0.67, then of 0.6 and 0.33
    assert video_map(*frames(found, truth), "ucf101-24")["per_class"]["walk"][1] == 0.5


def test_no_prediction_is_video_map_0() -> None:
    assert video_map(found_rows(), truth_rows((0, 1), (1, 1)))["mAP"] == [0] * len(TUBE_IOUS)


@pytest.mark.parametrize(
    ("found", "truth", "message"),
    [
        (found_rows((0, 0.5, "")), truth_rows((0, 1)), "no row of the predictions that counts names a person"),
        (found_rows((0, 0.5, 1)), truth_rows((0, -1)), "no row of the ground truth that counts names a person"),
        (
            found_rows((0, 0.5, 1), (0, 0.4, 1)),
            truth_rows((0, 1)),
            "a person of the predictions has two rows of the class 'walk' in a,0000, with different boxes or scores",
        ),
    ],
)
def test_persons_that_make_no_tubes_are_refused(found: pd.DataFrame, truth: pd.DataFrame, message: str) -> None:
    with pytest.raises(InputError, match=message):
        video_map(found, truth)


def test_an_unknown_protocol_is_refused_with_the_nearest() -> None:
    with pytest.raises(InputError, match=r"no tube protocol 'mok'.*moc"):
        Requested(tubes="mok")


def test_files_hold_the_person_in_the_last_column(tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text("a,0,.1,.1,.5,.5,1,.5,07\na,1,.1,.1,.5,.5,1,.5,7\na,1,.2,.2,.5,.5,1,.5,\n")
    (tmp_path / "g.csv").write_text("a,0,.1,.1,.5,.5,1,3\na,1,.1,.1,.5,.5,1,3\n")
    result = stal_eval.evaluate(tmp_path / "p.csv", tmp_path / "g.csv", LABEL_MAP, requested=Requested(tubes="moc"))
    assert result.optional["video_mAP"]["prediction_tubes"] == 2
    assert result.optional["video_mAP"]["prediction_rows_without_person"] == 1
