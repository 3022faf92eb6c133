"""What waits for a service's model, in a fair order: deficit round robin over flows, and live flows before batches.

A flow is what is served in order and shares with the others: the frames of a stream, the calls of a connection.
"""

from collections import OrderedDict, deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Generic, Literal, NamedTuple, TypeVar, get_args

Priority = Literal["live", "batch"]
PRIORITIES: tuple[Priority, ...] = get_args(Priority)
LIVE_SHARE = 8
"""Cost of live items that is served for each 1 of batches while both wait."""

T = TypeVar("T")


class Flow(NamedTuple):
    """Whose items wait together."""

    key: Hashable
    priority: Priority


@dataclass(frozen=True, eq=False)
class _Item(Generic[T]):
    value: T
    cost: int


@dataclass
class _Waiting(Generic[T]):
    """Of one flow. credit: what it may still be served in its turn, and has saved for an item that costs more."""

    items: deque[_Item[T]] = field(default_factory=deque)
    credit: int = 0
    in_turn: bool = False


class FairQueue(Generic[T]):
    """In each round every flow that waits gets a credit of 1, and is served what the credit pays for.

    Of two flows of a priority that both wait for a time, neither is served more than 1 + twice the highest cost of an
    item ahead of the other. Nothing is bounded here, and nothing is safe for threads.
    """

    def __init__(self) -> None:
        # In the order of their turns.
        self._flows: dict[Priority, OrderedDict[Flow, _Waiting[T]]] = {name: OrderedDict() for name in PRIORITIES}
        self._owed = 0
        """What live flows were served while batches waited, less LIVE_SHARE times what those were served."""

    def __len__(self) -> int:
        return sum(len(waiting.items) for flows in self._flows.values() for waiting in flows.values())

    def add(self, flow: Flow, value: T, *, cost: int = 1) -> None:
        """cost: at least 1, as much as serving it takes in comparison with other items."""
        self._flows[flow.priority].setdefault(flow, _Waiting()).items.append(_Item(value, cost))

    def discard(self, flow: Flow, value: T) -> None:
        """Take an item out that nobody waits for any more, if it is still there."""
        flows = self._flows[flow.priority]
        if (waiting := flows.get(flow)) is not None:
            waiting.items = deque(item for item in waiting.items if item.value is not value)
            if not waiting.items:
                del flows[flow]

    def take(self, fits: Callable[[T], bool] = lambda _: True) -> T | None:
        """Return the next item that fits, or None. A flow of which nothing fits keeps its turn."""
        live, batch = self._flows["live"], self._flows["batch"]
        both = bool(live and batch)
        if not both:
            self._owed = 0
        priorities = PRIORITIES if self._owed < LIVE_SHARE else PRIORITIES[::-1]
        for priority in priorities:
            if (item := _take(self._flows[priority], fits)) is not None:
                if both:
                    self._owed += item.cost if priority == "live" else -LIVE_SHARE * item.cost
                return item.value
        return None


def _take(flows: OrderedDict[Flow, _Waiting[T]], fits: Callable[[T], bool]) -> _Item[T] | None:
    """Go through the turns until a flow has the credit for an item."""
    found = True
    while found:
        found = False
        for flow, waiting in list(flows.items()):
            item = next((item for item in waiting.items if fits(item.value)), None)
            if item is None:
                continue
            found = True
            if not waiting.in_turn:
                waiting.credit, waiting.in_turn = waiting.credit + 1, True
            if item.cost <= waiting.credit:
                waiting.credit -= item.cost
                waiting.items.remove(item)
                if not waiting.items:
                    del flows[flow]
                return item
            waiting.in_turn = False
            flows.move_to_end(flow)
    return None
