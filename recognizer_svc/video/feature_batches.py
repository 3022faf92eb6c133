"""Clips of all videos that wait while the scoring thread is busy are computed together. No torch here."""

import threading
import time
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from recognizer_svc.scoring.metrics import ScoringMetrics
from recognizer_svc.video.key_frames import Row
from svc_common.errors import DeadlineError

if TYPE_CHECKING:
    from recognizer_svc.video.extraction import Clip, FeatureSource


@dataclass(kw_only=True, eq=False)
class _Waiting:
    source: "FeatureSource"
    clip: "Clip"
    deadline: float
    answer: Future[Row] = field(default_factory=Future)
    queued_at: float = field(default_factory=time.monotonic)


class FeatureBatches:
    """Between the event loop, which adds clips, and the scoring thread, which takes them."""

    def __init__(self, thread: Executor, metrics: ScoringMetrics) -> None:
        self._thread, self._metrics = thread, metrics
        self._waiting: list[_Waiting] = []
        self._lock = threading.Lock()

    def add(self, source: "FeatureSource", clip: "Clip", deadline: float) -> Future[Row]:
        """Queue a clip. deadline: on the clock of time.monotonic()."""
        waiting = _Waiting(source=source, clip=clip, deadline=deadline)
        with self._lock:
            self._waiting.append(waiting)
        # A turn of the thread for each clip: together with other work it then gets as many as it has clips.
        turn = self._thread.submit(self._one_pass)
        turn.add_done_callback(lambda turn: waiting.answer.cancel() if turn.cancelled() else None)
        return waiting.answer

    def _one_pass(self) -> None:
        """Compute the clip that waits longest, and those that can share its batch."""
        taken = self._take()
        if not taken:
            return
        self._metrics.batch_clips.observe(len(taken))
        try:
            with self._metrics.compute_s.labels("features").time():
                rows = taken[0].source.rows([item.clip for item in taken])
        except Exception as error:  # noqa: BLE001 - every stream gets it
            rows = [error] * len(taken)  # type: ignore[list-item]
        for item, row in zip(taken, rows, strict=True):
            if isinstance(row, Exception):
                item.answer.set_exception(row)
            else:
                item.answer.set_result(row)

    def _take(self) -> list[_Waiting]:
        """Clips of one source; those that nobody waits for any more are dropped."""
        taken: list[_Waiting] = []
        now = time.monotonic()
        with self._lock:
            for item in list(self._waiting):
                if taken and (item.source is not taken[0].source or len(taken) == item.source.extractor.batch_size):
                    continue
                self._waiting.remove(item)
                self._metrics.queue_s.observe(now - item.queued_at)
                if not item.answer.set_running_or_notify_cancel():
                    continue
                if now > item.deadline:
                    item.answer.set_exception(DeadlineError("the deadline passed while a clip waited for its turn"))
                    continue
                taken.append(item)
        return taken
