"""The recognizer's work in the process of a command that names no service."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from cache.store import Store
from protos.generated import recognizer_pb2 as pb
from recognizer_svc.client import SplitScores, read_predictions
from recognizer_svc.scoring.scoring_thread import Scoring
from recognizer_svc.service.jobs import JobManager
from recognizer_svc.service.limits import JobLimits
from recognizer_svc.service.servicer import RecognizerServicer
from stal_data.keyframes import ScoredKeyFrame


class LocalRecognizer:
    """Use with `async with`, like a `RecognizerClient`, whose calls these are. Its jobs end with the block.

    A job of one process trains in a thread of this process; more processes are started by torch's launcher.
    """

    def __init__(self, store: Store, *, data_root: Path | None = None) -> None:
        """data_root: folder below which a recipe may name a data set."""
        limits = JobLimits(data_root=data_root, end_with_service=True, in_this_process=True)
        self._store, self._limits = store, limits

    async def __aenter__(self) -> Self:
        self._jobs = JobManager(self._store, self._limits)
        self._scoring = Scoring(self._store, device="auto", max_requests=1)
        self._calls = RecognizerServicer(self._store, self._jobs, self._scoring)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._jobs.drain(cancel_jobs=True)
        await self._jobs.stop()
        await asyncio.to_thread(self._scoring.close)

    def train(self, request: pb.TrainRequest) -> AsyncIterator[pb.JobUpdate]:
        """Start a job and yield its updates until it ends."""
        return self._calls.Train(request)

    def watch_job(self, run_id: str, *, from_seq: int = 0) -> AsyncIterator[pb.JobUpdate]:
        """Yield a job's updates, those of the past from event `from_seq` on first, until it ends."""
        return self._calls.WatchJob(pb.WatchJobRequest(run_id=run_id, from_seq=from_seq))

    async def list_jobs(self, *, limit: int = 0) -> Sequence[pb.Job]:
        """The newest jobs, newest first; limit 0 means the default."""
        return (await self._calls.ListJobs(pb.ListJobsRequest(limit=limit))).jobs

    async def get_job(self, run_id: str) -> pb.Job:
        return await self._calls.GetJob(pb.GetJobRequest(run_id=run_id))

    async def cancel_job(self, run_id: str) -> pb.Job:
        """Stop a job, whoever runs it, and return it when it has ended."""
        return await self._calls.CancelJob(pb.CancelJobRequest(run_id=run_id))

    def predict(self, request: pb.PredictRequest) -> AsyncGenerator[SplitScores | ScoredKeyFrame]:
        """First what the scores come from, then the key frames that have boxes, in the order of the split."""
        return read_predictions(self._calls.Predict(request))
