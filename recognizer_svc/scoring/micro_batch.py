"""Recognize calls that wait while the scoring thread is busy are taken together. No torch here.

Nobody waits for company: a call that finds the thread free is computed at once, and those that come meanwhile share the
next pass.
"""

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from recognizer_svc.scoring.metrics import ScoringMetrics
from recognizer_svc.scoring.model_list import ModelInfo
from recognizer_svc.scoring.queries import RecognizeQuery
from svc_common.errors import DeadlineError

MAX_CALLS = 32
MAX_BOXES = 128
"""Of one pass, as for `recognizer_svc.scoring.predict`; a call with more boxes gets a pass of its own."""
MAX_BOXES_AROUND = 5000
"""Of one call and of one pass, in the key frames around those to score."""

Scored = tuple[ModelInfo, NDArray[np.float32]]
"""The head, and scores [N, classes] of the call's boxes."""
Recognize = Callable[[Sequence[RecognizeQuery]], Sequence[Scored | Exception]]
"""Scores calls of one source; for each its scores or what is wrong with it."""


@dataclass(kw_only=True, eq=False)
class _Call:
    query: RecognizeQuery
    deadline: float
    answer: Future[Scored] = field(default_factory=Future)
    queued_at: float = field(default_factory=time.monotonic)


class MicroBatches:
    """Between the event loop, which adds calls, and the scoring thread, which takes them."""

    def __init__(self, thread: Executor, recognize: Recognize, metrics: ScoringMetrics, *, max_calls: int) -> None:
        """recognize: runs in the thread. max_calls: of one pass; 1 computes each call alone."""
        self._thread, self._recognize, self._metrics = thread, recognize, metrics
        self._max_calls = max_calls
        self._waiting: list[_Call] = []
        self._lock = threading.Lock()

    def add(self, query: RecognizeQuery, deadline: float) -> Future[Scored]:
        """Queue a call. deadline: on the clock of time.monotonic()."""
        call = _Call(query=query, deadline=deadline)
        with self._lock:
            self._waiting.append(call)
        # A turn of the thread for each call: together with other work it then gets as many as it has calls.
        turn = self._thread.submit(self._one_pass)
        turn.add_done_callback(lambda turn: call.answer.cancel() if turn.cancelled() else None)
        return call.answer

    def _one_pass(self) -> None:
        """Answer the call that waits longest, and those that can share its pass."""
        calls = self._take()
        if not calls:
            return
        self._metrics.batch_calls.observe(len(calls))
        self._metrics.batch_size.observe(sum(len(call.query.boxes_N4) for call in calls))
        answers: Sequence[Scored | Exception]
        try:
            with self._metrics.compute_s.labels("recognize").time():
                answers = self._recognize([call.query for call in calls])
        except Exception as error:  # noqa: BLE001 - every caller gets it
            answers = [error] * len(calls)
        for call, answer in zip(calls, answers, strict=True):
            if isinstance(answer, Exception):
                call.answer.set_exception(answer)
            else:
                call.answer.set_result(answer)

    def _take(self) -> list[_Call]:
        """Calls of one source; those that nobody waits for any more are dropped."""
        taken: list[_Call] = []
        boxes, around, now = 0, 0, time.monotonic()
        with self._lock:
            for call in list(self._waiting):
                if len(taken) == self._max_calls:
                    break
                count = len(call.query.boxes_N4)
                others = sum(len(people.boxes_N4) for people in call.query.neighbours.values())
                crowded = boxes + count > MAX_BOXES or around + others > MAX_BOXES_AROUND
                if taken and (call.query.source != taken[0].query.source or crowded):
                    continue
                self._waiting.remove(call)
                self._metrics.queue_s.observe(now - call.queued_at)
                if not call.answer.set_running_or_notify_cancel():
                    continue
                if now > call.deadline:
                    call.answer.set_exception(DeadlineError("the deadline passed while the call waited for its turn"))
                    continue
                taken.append(call)
                boxes, around = boxes + count, around + others
        return taken
