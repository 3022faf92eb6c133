"""Which boxes are valid, and how much two overlap."""

import numpy as np
import pytest

from stal_data.boxes import are_valid, intersection_over_union, shared_areas

BOXES = np.array([[0, 0, 0.5, 0.5], [0.25, 0.25, 0.75, 0.75], [0.5, 0, 1, 0.5]])


def test_overlaps_of_known_boxes() -> None:
    shared = [[0.25, 0.0625, 0], [0.0625, 0.25, 0.0625], [0, 0.0625, 0.25]]
    np.testing.assert_allclose(shared_areas(BOXES, BOXES), shared)
    part = 0.0625 / (0.5 - 0.0625)
    np.testing.assert_allclose(intersection_over_union(BOXES, BOXES), [[1, part, 0], [part, 1, part], [0, part, 1]])


@pytest.mark.parametrize("empty", [[0.2, 0.2, 0.2, 0.4], [0.3, 0.3, 0.3, 0.3], [0.4, 0.4, 0.2, 0.2]])
def test_boxes_without_area_overlap_nothing(empty: list[float]) -> None:
    both = np.array([empty, [0, 0, 1, 1]], np.float32)
    assert intersection_over_union(both, both).tolist() == [[0, 0], [0, 1]]


def test_no_boxes_overlap_no_boxes() -> None:
    assert intersection_over_union(np.empty((0, 4)), BOXES).shape == (0, 3)
    assert intersection_over_union(BOXES, np.empty((0, 4))).shape == (3, 0)


@pytest.mark.parametrize(
    ("box", "valid", "when_empty"),
    [
        ([0, 0, 1, 1], True, True),
        ([0.5, 0, 0.5, 1], False, True),
        ([0, 0.5, 1, 0.5], False, True),
        ([0.6, 0, 0.5, 1], False, False),
        ([0, 0.6, 1, 0.5], False, False),
        ([-0.1, 0, 1, 1], False, False),
        ([0, -0.1, 1, 1], False, False),
        ([0, 0, 1.1, 1], False, False),
        ([0, 0, 1, 1.1], False, False),
        *(([*[0.5] * place, float("nan"), *[0.5] * (3 - place)], False, False) for place in range(4)),
    ],
)
def test_validity(box: list[float], valid: bool, when_empty: bool) -> None:
    boxes = np.array([box, [0.1, 0.1, 0.2, 0.2]], np.float32)
    assert are_valid(boxes, may_be_empty=False).tolist() == [valid, True]
    assert are_valid(boxes, may_be_empty=True).tolist() == [when_empty, True]
