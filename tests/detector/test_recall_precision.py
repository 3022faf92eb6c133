"""Counting found people."""

from itertools import permutations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from detector_svc.yolo.recall_precision import Quality, found_people

# In steps in which areas are exact: of sides that are nearly nothing, the product in float32 is nothing.
COORDINATE = st.integers(0, 1024).map(lambda number: number / 1024)
BOXES = hnp.arrays(np.float32, st.tuples(st.integers(0, 4), st.just(4)), elements=COORDINATE).map(
    lambda boxes: np.concatenate([np.minimum(boxes[:, :2], boxes[:, 2:]), np.maximum(boxes[:, :2], boxes[:, 2:])], 1)
)


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    common = float(max(width, 0)) * float(max(height, 0))
    union = sum(float(c[2] - c[0]) * float(c[3] - c[1]) for c in (a, b)) - common
    return common / union if union > 0 else 0.0


@given(BOXES, BOXES)
def test_a_match_is_one_to_one_and_never_beats_the_best_assignment(boxes: np.ndarray, people: np.ndarray) -> None:
    found = int(found_people(boxes, people).sum())
    # A hair below 0.5, since the two ways to compute an overlap round differently.
    good = [[overlap(box, person) >= 0.5 - 1e-5 for person in people] for box in boxes]
    slots = range(max(len(people), len(boxes)))
    best = max(
        sum(1 for box, person in enumerate(order[: len(boxes)]) if person < len(people) and good[box][person])
        for order in permutations(slots)
    )
    assert 0 <= found <= best
    assert found > 0 or best == 0 or not any(overlap(box, person) >= 0.5 + 1e-5 for box in boxes for person in people)


def test_a_second_box_on_one_person_is_not_found_again() -> None:
    person = np.array([[0.1, 0.1, 0.5, 0.9]], np.float32)
    assert found_people(np.repeat(person, 3, axis=0), person).tolist() == [True]
    assert found_people(person, np.repeat(person, 3, axis=0)).sum() == 1


def test_shares() -> None:
    quality = Quality(people_S=(2, 0, 2), found_S=(1, 0, 2), boxes=6)
    assert (quality.recall, quality.precision) == (0.75, 0.5)
    assert quality.recall_by_size() == {"small": 0.5, "medium": None, "large": 1.0}
    nobody = Quality(people_S=(0, 0, 0), found_S=(0, 0, 0), boxes=0)
    assert nobody.recall == nobody.precision == 0.0
