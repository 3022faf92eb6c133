"""Who is who in two key frames: ids first, then the assignment of least distance, against trying every assignment."""

import math
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recognizer_svc.assignment import least_cost
from recognizer_svc.people import People, follow, match

CUT_OFF = 2.0


def every_assignment(rows: int, columns: int) -> list[list[tuple[int, int]]]:
    """All ways to pair as many rows and columns as there are pairs of."""
    if rows > columns:
        return [[(row, column) for column, row in pairs] for pairs in every_assignment(columns, rows)]
    return [list(enumerate(chosen)) for chosen in permutations(range(columns), rows)]


def distance(a: np.ndarray, b: np.ndarray) -> float:
    (ax1, ay1, ax2, ay2), (bx1, by1, bx2, by2) = a.tolist(), b.tolist()
    sizes = [math.sqrt((x2 - x1) * (y2 - y1)) for x1, y1, x2, y2 in (a.tolist(), b.tolist())]
    moved = math.hypot((ax1 + ax2 - bx1 - bx2) / 2, (ay1 + ay2 - by1 - by2) / 2)
    return moved / (sum(sizes) / 2) + abs(math.log((ay2 - ay1) / (by2 - by1)))


def box(x: float, *, y: float = 0.5, width: float = 0.1, height: float = 0.3) -> list[float]:
    return [x - width / 2, y - height / 2, x + width / 2, y + height / 2]


def people(*boxes: list[float], persons: list[int] | None = None) -> People:
    return People.of(np.array(boxes, dtype=np.float32).reshape(-1, 4), persons)


random_boxes = st.lists(
    st.builds(
        box,
        st.floats(0.1, 0.9),
        y=st.floats(0.2, 0.8),
        width=st.floats(0.05, 0.2),
        height=st.floats(0.1, 0.4),
    ),
    max_size=5,
)


@given(
    st.tuples(st.integers(0, 5), st.integers(0, 5)).flatmap(
        lambda shape: st.lists(
            st.one_of(st.integers(-3, 3), st.floats(-10, 10)),
            min_size=shape[0] * shape[1],
            max_size=shape[0] * shape[1],
        ).map(lambda values: np.array(values, dtype=np.float64).reshape(shape))
    )
)
def test_the_assignment_has_the_least_cost_of_all(cost: np.ndarray) -> None:
    pairs = least_cost(cost)
    assert len(pairs) == min(cost.shape)
    assert len({row for row, _ in pairs}) == len({column for _, column in pairs}) == len(pairs)
    totals = [sum(cost[pair] for pair in every) for every in every_assignment(*cost.shape)]
    assert sum(cost[pair] for pair in pairs) == pytest.approx(min(totals), abs=1e-9)


@given(random_boxes, random_boxes)
def test_people_without_ids_are_matched_at_the_least_distance(first: list, second: list) -> None:
    a, b = people(*first), people(*second)
    place = match(a, b).tolist()
    pairs = [(row, column) for row, column in enumerate(place) if column >= 0]
    assert len({column for _, column in pairs}) == len(pairs)
    cost = np.array([[distance(one, other) for other in b.boxes_N4] for one in a.boxes_N4]).reshape(
        len(first), len(second)
    )
    assert all(cost[pair] < CUT_OFF for pair in pairs)
    # Who is not matched costs as much as the cut-off.
    least = min(sum(min(cost[pair], CUT_OFF) for pair in every) for every in every_assignment(len(first), len(second)))
    found = sum(cost[pair] for pair in pairs) + CUT_OFF * (min(len(first), len(second)) - len(pairs))
    assert found == pytest.approx(least, abs=1e-4)


def test_a_row_of_people_that_moves_on_by_one_place_is_followed() -> None:
    """Where each takes the nearest box, everybody but one gets the next person's."""
    a, b = people(box(0.2), box(0.4), box(0.6)), people(box(0.72), box(0.52), box(0.32))
    assert match(a, b).tolist() == [2, 1, 0]


def test_ids_win_over_places() -> None:
    a = people(box(0.2), box(0.8), persons=[7, 3])
    assert match(a, people(box(0.2), box(0.8), persons=[3, 7])).tolist() == [1, 0]
    assert match(a, people(box(0.8), box(0.2), persons=[8, 3])).tolist() == [-1, 1]


def test_people_with_different_ids_are_never_the_same() -> None:
    assert match(people(box(0.5), persons=[1]), people(box(0.5), persons=[2])).tolist() == [-1]


def test_people_of_unknown_id_are_matched_among_those_that_are_left() -> None:
    a = people(box(0.5), box(0.55), persons=[4, -1])
    assert match(a, people(box(0.5), box(0.9), persons=[-1, 4])).tolist() == [1, 0]
    assert match(a, people(box(0.52), persons=[-1])).tolist() in ([0, -1], [-1, 0])


def test_an_id_that_two_people_have_is_decided_by_their_places() -> None:
    a = people(box(0.2), box(0.8), persons=[1, 1])
    assert match(a, people(box(0.8), box(0.2), persons=[1, 1])).tolist() == [1, 0]


@pytest.mark.parametrize(("moved", "place"), [(0.3, 0), (0.4, -1)])
def test_who_moves_too_far_is_not_found(moved: float, place: int) -> None:
    """The size is 0.173, the root of the area."""
    assert match(people(box(0.3)), people(box(0.3 + moved))).tolist() == [place]


def test_a_tall_and_a_small_person_may_pass_each_other() -> None:
    a = people(box(0.4, height=0.5), box(0.5, height=0.2))
    assert match(a, people(box(0.42, height=0.2), box(0.48, height=0.5))).tolist() == [1, 0]


def test_no_people_at_all() -> None:
    nobody, one = people(), people(box(0.5))
    assert match(nobody, one).tolist() == match(nobody, nobody).tolist() == []
    assert match(one, nobody).tolist() == [-1]


def test_who_walks_is_followed_step_by_step() -> None:
    """After three steps the person is further away than anybody is looked for at once."""
    steps = [people(box(0.1 + 0.25 * step), box(0.1, y=0.9)) for step in range(1, 4)]
    start = people(box(0.1, y=0.9), box(0.1))
    assert [place.tolist() for place in follow(start, steps)] == [[1, 0]] * 3
    assert match(start, steps[-1]).tolist() == [1, -1]


def test_who_is_missed_once_is_found_again_and_who_came_later_is_somebody_else() -> None:
    start = people(box(0.3), box(0.7))
    gone, back = people(box(0.7)), people(box(0.31), box(0.71))
    assert [place.tolist() for place in follow(start, [gone, back])] == [[-1, 0], [0, 1]]
    alone, other = people(box(0.3)), people(box(0.3), box(0.6))
    # The newcomer of the second key frame is at its place in the third, so the first person is not.
    assert [place.tolist() for place in follow(alone, [other, people(box(0.58))])] == [[0], [-1]]


def test_ids_are_found_across_a_gap() -> None:
    start = people(box(0.1), persons=[5])
    places = follow(start, [people(), people(box(0.9), box(0.1), persons=[5, 6])])
    assert [place.tolist() for place in places] == [[-1], [0]]
