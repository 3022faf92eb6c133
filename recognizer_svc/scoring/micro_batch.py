"""What waits while the scoring thread is busy is taken together: Recognize calls, and clips of videos. No torch here.

Nobody waits for company: what finds the thread free is computed at once, and what comes meanwhile shares the next pass.
Connections, and videos, take turns.
"""

import math
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from recognizer_svc.scoring.metrics import ScoringMetrics
from recognizer_svc.scoring.model_list import ModelInfo
from recognizer_svc.scoring.queries import RecognizeQuery
from svc_common.errors import DeadlineError
from svc_common.fair_queue import FairQueue, Flow

MAX_CALLS = 32
MAX_BOXES = 128
"""Of one pass, as for `recognizer_svc.scoring.predict`; a call with more boxes gets a pass of its own."""
_BOXES_PER_TURN = 16
"""A call with more boxes counts as several."""
MAX_BOXES_AROUND = 5000
"""Of one call and of one pass, in the key frames around those to score."""

Scored = tuple[ModelInfo, NDArray[np.float32]]
"""The head, and scores [N, classes] of the call's boxes."""

Q = TypeVar("Q")
A = TypeVar("A")


@dataclass(kw_only=True, eq=False)
class _Call(Generic[Q, A]):
    query: Q
    deadline: float
    answer: "Future[A]" = field(default_factory=Future)
    queued_at: float = field(default_factory=time.monotonic)


class MicroBatches(Generic[Q, A]):
    """Between the event loop, which adds calls, and the scoring thread, which takes them."""

    def __init__(
        self,
        thread: Executor,
        compute: Callable[[Sequence[Q]], Sequence[A | Exception]],
        metrics: ScoringMetrics,
        *,
        name: str,
        fits: Callable[[Sequence[Q], Q], bool],
        observe: Callable[[Sequence[Q]], None],
        cost: Callable[[Q], int] = lambda _: 1,
    ) -> None:
        """compute: runs in the thread; gives for each call its answer or what is wrong with it.

        name: of a pass, in metrics. fits: whether a call may join some in their pass. observe: told what a pass holds.
        cost: of a call, as the fair queue counts it.
        """
        self._thread, self._compute, self._metrics = thread, compute, metrics
        self._name, self._fits, self._observe, self._cost = name, fits, observe, cost
        self._waiting = FairQueue[_Call[Q, A]]()
        self._lock = threading.Lock()

    def add(self, query: Q, deadline: float, flow: Flow) -> "Future[A]":
        """Queue a call. deadline: on the clock of time.monotonic(). flow: with whose calls it waits."""
        call = _Call[Q, A](query=query, deadline=deadline)
        with self._lock:
            self._waiting.add(flow, call, cost=self._cost(query))
        # A turn of the thread for each call: together with other work it then gets as many as it has calls.
        turn = self._thread.submit(self._one_pass)
        turn.add_done_callback(lambda turn: call.answer.cancel() if turn.cancelled() else None)
        return call.answer

    def _one_pass(self) -> None:
        """Answer the call whose turn it is, and those that can share its pass."""
        calls = self._take()
        if not calls:
            return
        queries = [call.query for call in calls]
        self._observe(queries)
        answers: Sequence[A | Exception]
        try:
            with self._metrics.compute_s.labels(self._name).time():
                answers = self._compute(queries)
        except Exception as error:  # noqa: BLE001 - every caller gets it
            answers = [error] * len(calls)
        for call, answer in zip(calls, answers, strict=True):
            if isinstance(answer, Exception):
                call.answer.set_exception(answer)
            else:
                call.answer.set_result(answer)

    def _take(self) -> list[_Call[Q, A]]:
        """Calls that share a pass; those that nobody waits for any more are dropped."""
        taken: list[_Call[Q, A]] = []
        queries: list[Q] = []
        now = time.monotonic()
        with self._lock:
            while (call := self._waiting.take(lambda it: not queries or self._fits(queries, it.query))) is not None:
                self._metrics.queue_s.observe(now - call.queued_at)
                if not call.answer.set_running_or_notify_cancel():
                    continue
                if now > call.deadline:
                    call.answer.set_exception(DeadlineError("the deadline passed while the call waited for its turn"))
                    continue
                taken.append(call)
                queries.append(call.query)
        return taken


def recognize_batches(
    thread: Executor,
    recognize: Callable[[Sequence[RecognizeQuery]], Sequence[Scored | Exception]],
    metrics: ScoringMetrics,
    *,
    max_calls: int,
) -> MicroBatches[RecognizeQuery, Scored]:
    """Return those of Recognize calls of one source. max_calls: of one pass; 1 computes each alone."""

    def fits(taken: Sequence[RecognizeQuery], query: RecognizeQuery) -> bool:
        both = [*taken, query]
        around = sum(len(people.boxes_N4) for item in both for people in item.neighbours.values())
        return (
            len(taken) < max_calls
            and query.source == taken[0].source
            and sum(len(item.boxes_N4) for item in both) <= MAX_BOXES
            and around <= MAX_BOXES_AROUND
        )

    def observe(queries: Sequence[RecognizeQuery]) -> None:
        metrics.batch_calls.observe(len(queries))
        metrics.batch_size.observe(sum(len(query.boxes_N4) for query in queries))

    def cost(query: RecognizeQuery) -> int:
        return math.ceil(len(query.boxes_N4) / _BOXES_PER_TURN)

    return MicroBatches(thread, recognize, metrics, name="recognize", fits=fits, observe=observe, cost=cost)
