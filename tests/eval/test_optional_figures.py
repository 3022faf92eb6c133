"""mAP at other IoUs and of groups, and the confusion between classes: against plain loops, and case by case."""

from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import stal_eval
from stal_data.errors import InputError
from stal_data.labels import Label, LabelMap
from stal_eval import Requested
from stal_eval.ious import COCO_IOUS, parse_ious
from tests.eval.brute_force import Box, Found, Truth, area_under_curve, average_precision, iou, mark_hits
from tests.eval.frames import LABEL_MAP, ground_truth_frame, predictions_frame
from tests.eval.test_sweep import ground_truth, predictions

NAME = dict(zip(LABEL_MAP.ids, LABEL_MAP.names, strict=True))
capacities = st.sampled_from([1, 2, 3, 5, 0])


def optional(found: list[Found], truth: list[Truth], capacity: int = 0, **requested: Any) -> dict[str, Any]:
    return stal_eval.evaluate(
        predictions_frame(found),
        ground_truth_frame(truth),
        LABEL_MAP,
        capacities=[capacity],
        requested=Requested(**requested),
    ).optional


def kept_rows(found: list[Found], capacity: int) -> list[Found]:
    """The rows that count, in file order."""
    rows = [row for row in found if row.label in NAME]
    kept: set[int] = set()
    for key in {(row.video, row.timestamp) for row in rows}:
        here = sorted((row for row in rows if (row.video, row.timestamp) == key), key=lambda row: -row.score)
        kept |= {id(row) for row in here[: capacity or None]}
    return [row for row in rows if id(row) in kept]


def meet(row: Found, box: Truth) -> bool:
    return (row.video, row.timestamp) == (box.video, box.timestamp)


@given(predictions=predictions, ground_truth=ground_truth, capacity=capacities)
@settings(max_examples=25)
def test_map_at_other_ious_equals_the_definition(
    predictions: list[Found], ground_truth: list[Truth], capacity: int
) -> None:
    found = optional(predictions, ground_truth, capacity, ious=(0.25, *COCO_IOUS))["by_iou"]
    assert found["ious"] == [0.25, *COCO_IOUS]
    for place, min_iou in enumerate(found["ious"]):
        expected = average_precision(predictions, ground_truth, list(NAME), capacity, min_iou)
        scored = {NAME[label]: ap for label, ap in expected.items() if ap is not None}
        assert {name: ap_I and ap_I[place] for name, ap_I in found["per_class"].items()} == pytest.approx(
            dict.fromkeys(NAME.values()) | scored, abs=1e-12
        )
        assert found["mAP"][place] == pytest.approx(np.mean(list(scored.values())), abs=1e-12)
    assert found["mAP_50_95"] == pytest.approx(np.mean(found["mAP"][1:]), abs=1e-12)


def size_of(box: Box) -> str:
    area = (box[2] - box[0]) * (box[3] - box[1])
    return "small" if area < 32**2 / 640 / 480 else "medium" if area < 96**2 / 640 / 480 else "large"


# On the coarse grid of the other tests every box is large.
_scale = st.sampled_from([1.0, 0.2, 0.04])


@given(predictions=predictions, ground_truth=ground_truth, capacity=capacities, scales=st.lists(_scale, min_size=37))
@settings(max_examples=40)
def test_map_by_box_size_equals_a_plain_loop(
    predictions: list[Found], ground_truth: list[Truth], capacity: int, scales: list[float]
) -> None:
    def scaled(row: Any, scale: float) -> Any:
        return type(row)(**row.__dict__ | {"box": tuple(scale * x for x in row.box)})

    factors = iter(scales)
    found = [scaled(row, next(factors)) for row in predictions]
    truth = [scaled(row, next(factors)) for row in ground_truth]
    groups = optional(found, truth, capacity, groups=True)["by_box_size"]
    for size in ("small", "medium", "large"):
        areas = []
        for label in NAME:
            boxes = [box for box in truth if box.label == label]
            num_truth = sum(size_of(box.box) == size for box in boxes)
            if num_truth:
                ranked = sorted((r for r in kept_rows(found, capacity) if r.label == label), key=lambda r: -r.score)
                hits = []
                for row, hit in zip(ranked, mark_hits(ranked, boxes, 0.5), strict=True):
                    best = max((b for b in boxes if meet(row, b)), key=lambda b: iou(row.box, b.box), default=None)
                    finds = best is not None and iou(row.box, best.box) >= 0.5
                    if size_of(best.box if best is not None and finds else row.box) == size:
                        hits.append(hit)
                areas.append(area_under_curve(hits, num_truth))
        counted = [box for box in truth if box.label in NAME and size_of(box.box) == size]
        expected = {"mAP": np.mean(areas) if areas else None, "classes": len(areas), "ground_truth": len(counted)}
        assert groups[size] == pytest.approx(expected, abs=1e-12)


def test_map_by_label_type_is_the_mean_over_its_classes_that_count() -> None:
    labels = LabelMap([Label(1, "a", "POSE"), Label(2, "b", "POSE"), Label(3, "c"), Label(4, "d", "OTHER")], "typed")
    box = (0.0, 0.0, 0.5, 0.5)
    truth = [Truth("v", 0, box, 1), Truth("v", 0, box, 2), Truth("v", 1, box, 2), Truth("v", 0, box, 3)]
    found = [Found("v", 0, box, 1, 0.9), Found("v", 0, box, 2, 0.8)]
    frames = predictions_frame(found), ground_truth_frame(truth)
    groups = stal_eval.evaluate(*frames, labels, requested=Requested(groups=True)).optional["by_label_type"]
    assert groups == {
        "POSE": {"mAP": 0.75, "classes": 2, "ground_truth": 3},
        "(no label_type)": {"mAP": 0.0, "classes": 1, "ground_truth": 1},
        "OTHER": {"mAP": None, "classes": 0, "ground_truth": 0},
    }


@given(predictions=predictions, ground_truth=ground_truth, capacity=capacities)
@settings(max_examples=40)
def test_confusion_equals_a_plain_loop(predictions: list[Found], ground_truth: list[Truth], capacity: int) -> None:
    expected = {name: Counter[str]() for name in NAME.values()}
    for box in (box for box in ground_truth if box.label in NAME):
        performed = {
            other.label
            for other in ground_truth
            if (other.video, other.timestamp, other.box) == (box.video, box.timestamp, box.box)
        }
        near = [row for row in kept_rows(predictions, capacity) if meet(row, box) and iou(row.box, box.box) >= 0.5]
        rivals = [row for row in near if row.label == box.label or row.label not in performed]
        # The first of equal scores, as everywhere.
        best = max(rivals, key=lambda row: row.score, default=None)
        expected[NAME[box.label]]["" if best is None else NAME[best.label]] += 1
    confusion = optional(predictions, ground_truth, capacity, confusion=True)["confusion"]
    assert {
        name: row["best_scored"] | ({"": row["no_row"]} if row["no_row"] else {}) for name, row in confusion.items()
    } == expected


@pytest.mark.parametrize(
    ("protocol", "capacity"), [("published", 20), ("ava", 20), ("pyslowfast", 0), ("mmaction2", 0)]
)
def test_other_protocols_have_them_by_their_own_rules(protocol: str, capacity: int) -> None:
    rng = np.random.default_rng(0)
    corner = rng.uniform(0, 0.5, (200, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(0.02, 0.3, (200, 2))], axis=1).round(3).tolist()
    truth = [Truth("v", n % 9, tuple(box), (1, 2, 4)[n % 3]) for n, box in enumerate(boxes)]
    moved = [
        Found(t.video, t.timestamp, t.box, t.label, score) for t, score in zip(truth, rng.random(200), strict=True)
    ]
    frames = predictions_frame(moved), ground_truth_frame(truth)
    options = {"protocol": protocol, "capacities": [capacity], "tie_bounds": False}
    requested = Requested(ious=[0.5, 0.75], groups=True, confusion=True)
    result = stal_eval.evaluate(*frames, LABEL_MAP, **options, requested=requested)
    assert result.optional["by_iou"]["mAP"][0] == result.mean_ap
    stricter = stal_eval.evaluate(*frames, LABEL_MAP, **options, iou=0.75)
    assert result.optional["by_iou"]["mAP"][1] == stricter.mean_ap
    sizes = result.optional["by_box_size"].values()
    assert sum(size["ground_truth"] for size in sizes) == 200
    rows = result.optional["confusion"].values()
    assert sum(sum(row["best_scored"].values()) + row["no_row"] for row in rows) == 200


def test_nothing_is_added_unless_it_is_requested() -> None:
    frames = predictions_frame([]), ground_truth_frame([Truth("v", 0, (0.0, 0.0, 0.5, 0.5), 1)])
    plain = stal_eval.evaluate(*frames, LABEL_MAP)
    asked = stal_eval.evaluate(*frames, LABEL_MAP, requested=Requested(ious="0.5"))
    assert plain.metrics_text() == asked.metrics_text()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ()),
        ("0.5:0.95", COCO_IOUS),
        ("0.75,0.5, 0.75", (0.5, 0.75)),
        ("1,.3:.4", (0.3, 0.35, 0.4, 1.0)),
        ([0.1 + 0.2], (0.3,)),
    ],
)
def test_ious_are_read(text: str | list[float], expected: tuple[float, ...]) -> None:
    assert parse_ious(text) == expected


@pytest.mark.parametrize(
    "text", ["0", "1.1", "-0.5", "50", "0.5;0.6", "0.9:0.5", "0.5:0.93", "nan", "0.5,", [0.0], [2.0]]
)
def test_a_bad_iou_is_named_with_the_rule(text: str | list[float]) -> None:
    with pytest.raises(InputError, match=r"iou is .* must be numbers above 0 and up to 1"):
        Requested(ious=text)


BOX: Box = (0.0, 0.0, 0.4, 0.4)
CLOSE: Box = (0.0, 0.0, 0.4, 0.3)  # IoU 0.75 with BOX
FAR: Box = (0.5, 0.5, 0.9, 0.9)


@pytest.mark.parametrize(
    ("found", "best_scored"),
    [
        ([Found("a", 0, BOX, 1, 0.2), Found("a", 0, BOX, 2, 0.9)], {"walk": 1}),  # the person does both
        ([Found("a", 0, BOX, 1, 0.2), Found("a", 0, CLOSE, 4, 0.3)], {"watch": 1}),
        ([Found("a", 0, BOX, 1, 0.3), Found("a", 0, BOX, 4, 0.3)], {"walk": 1}),  # the first of equal scores
        ([Found("a", 0, FAR, 4, 0.3), Found("b", 0, BOX, 4, 0.3)], {}),
    ],
)
def test_the_class_that_scores_best_on_a_box(found: list[Found], best_scored: dict[str, int]) -> None:
    # Another person does `watch` elsewhere, which makes it no action of the first.
    truth = [Truth("a", 0, BOX, 1), Truth("a", 0, BOX, 2), Truth("a", 0, CLOSE, 4)]
    row = optional(found, truth, confusion=True)["confusion"]["walk"]
    assert row == {"best_scored": best_scored, "no_row": 1 - len(best_scored)}


def test_a_row_has_the_size_of_the_box_that_it_finds() -> None:
    small, medium = (0.0, 0.0, 0.05, 0.06), (0.0, 0.0, 0.05, 0.07)  # areas below and above 1/300
    found = [Found("a", 0, medium, 1, 0.9), Found("a", 0, medium, 1, 0.8), Found("a", 0, FAR, 1, 0.7)]
    sizes = optional(found, [Truth("a", 0, small, 1)], groups=True)["by_box_size"]
    assert {size: group["mAP"] for size, group in sizes.items()} == {"small": 1, "medium": None, "large": None}
    found.insert(0, Found("a", 0, (0.5, 0.5, 0.55, 0.56), 1, 0.95))  # finds nothing, and is small
    assert optional(found, [Truth("a", 0, small, 1)], groups=True)["by_box_size"]["small"]["mAP"] == 0.5
