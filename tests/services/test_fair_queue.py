"""The order of a fair queue, whatever waits in it."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from svc_common.fair_queue import LIVE_SHARE, PRIORITIES, FairQueue, Flow

Item = tuple[Flow, int, int]
"""The flow, a number in its order, and the cost."""

FLOWS = st.builds(Flow, st.integers(0, 4), st.sampled_from(PRIORITIES))
COSTS = st.integers(1, 9)


def take_all(queue: FairQueue[Item]) -> list[Item]:
    taken = []
    while (item := queue.take()) is not None:
        taken.append(item)
    return taken


def filled(flows: dict[Flow, list[int]]) -> FairQueue[Item]:
    """A queue of items of these costs."""
    queue = FairQueue[Item]()
    for flow, costs in flows.items():
        for number, cost in enumerate(costs):
            queue.add(flow, (flow, number, cost), cost=cost)
    return queue


def batches(*costs: list[int]) -> dict[Flow, list[int]]:
    return {Flow(key, "batch"): each for key, each in enumerate(costs)}


@given(st.lists(st.tuples(FLOWS, COSTS) | st.none()))
def test_each_item_comes_once_and_a_flow_in_its_order(events: list[tuple[Flow, int] | None]) -> None:
    """events: what is added; None takes an item."""
    queue, added, taken = FairQueue[Item](), Counter[Flow](), []
    for event in events:
        if event is not None:
            flow, cost = event
            queue.add(flow, (flow, added[flow], cost), cost=cost)
            added[flow] += 1
        elif (item := queue.take()) is not None:
            taken.append(item)
        else:
            assert len(taken) == added.total()
        assert len(queue) == added.total() - len(taken)
    taken += take_all(queue)
    assert {flow: [item[1] for item in taken if item[0] == flow] for flow in added} == {
        flow: list(range(count)) for flow, count in added.items()
    }
    assert queue.take() is None


@given(st.lists(st.lists(COSTS, min_size=1, max_size=30), min_size=2, max_size=6))
def test_flows_that_wait_are_served_alike_within_the_bound(costs: list[list[int]]) -> None:
    flows = batches(*costs)
    queue, served, left = filled(flows), Counter[Flow](), {flow: len(each) for flow, each in flows.items()}
    bound = 1 + 2 * max(map(max, costs))
    while all(left.values()):
        flow, _, cost = queue.take()
        served[flow] += cost
        left[flow] -= 1
        assert max(served[each] for each in flows) - min(served[each] for each in flows) <= bound


@given(st.integers(2, 20), st.integers(1, 20))
def test_items_of_equal_cost_take_turns(flows: int, each: int) -> None:
    order = [flow.key for flow, _, _ in take_all(filled(batches(*([1] * each for _ in range(flows)))))]
    assert order == list(range(flows)) * each


def test_a_flow_that_comes_later_waits_for_one_round_only() -> None:
    queue, late = filled(batches([1] * 20, [1] * 20)), Flow("late", "batch")
    for _ in range(10):
        queue.take()
    queue.add(late, (late, 0, 1))
    assert late in [queue.take()[0] for _ in range(3)]


def test_one_that_always_waits_with_one_costly_item_gets_no_more_than_its_share() -> None:
    costly = Flow("costly", "batch")
    queue = filled(batches([1] * 100))
    queue.add(costly, (costly, 0, 10), cost=10)
    served = Counter[Flow]()
    for number in range(44):
        flow, _, cost = queue.take()
        served[flow] += cost
        if flow == costly:
            queue.add(costly, (costly, number, 10), cost=10)
    assert served[costly] == served[Flow(0, "batch")] == 40


@given(st.lists(COSTS, min_size=1), st.lists(COSTS, min_size=1))
def test_live_flows_go_first_and_batches_do_not_starve(live: list[int], batch: list[int]) -> None:
    flows = {Flow("live", "live"): live, Flow("batch", "batch"): batch}
    served, left, highest = Counter[str](), {"live": len(live), "batch": len(batch)}, max(live + batch)
    for flow, _, cost in take_all(filled(flows)):
        if not served:
            assert flow.priority == "live"
        if not all(left.values()):
            break
        served[flow.priority] += cost
        left[flow.priority] -= 1
        ahead = served["live"] - LIVE_SHARE * served["batch"]
        assert -LIVE_SHARE * highest < ahead < LIVE_SHARE + highest


def test_of_equal_items_eight_live_ones_come_for_each_of_batches() -> None:
    flows = {Flow("batch", "batch"): [1] * 3, Flow("live", "live"): [1] * 20}
    order = [flow.priority for flow, _, _ in take_all(filled(flows))]
    assert order == [*(["live"] * 8 + ["batch"]) * 2, *["live"] * 4, "batch"]


def test_what_does_not_fit_keeps_its_place() -> None:
    queue = filled(batches([1, 1], [1, 1], [1, 1]))
    assert queue.take(lambda item: item[0].key != 0)[0].key == 1
    assert queue.take(lambda item: item[1] > 0)[:2] == (Flow(0, "batch"), 1)
    assert queue.take(lambda _: False) is None
    assert [item[:2] for item in take_all(queue)] == [
        (Flow(key, "batch"), number) for key, number in ((2, 0), (0, 0), (1, 1), (2, 1))
    ]


@given(st.integers(1, 30), st.data())
def test_what_is_discarded_does_not_come(count: int, data: st.DataObject) -> None:
    flow = Flow(0, "live")
    queue, items = FairQueue[Item](), [(flow, number, 1) for number in range(count)]
    for item in items:
        queue.add(flow, item)
    gone = data.draw(st.sets(st.integers(0, count)))
    for number in gone:
        queue.discard(flow, items[number] if number < count else (flow, number, 1))
    assert len(queue) == len(set(range(count)) - gone)
    assert take_all(queue) == [item for item in items if item[1] not in gone]
