"""The RPCs of protos/recognizer.proto. Errors become statuses in the interceptor of svc_common."""

# ruff: noqa: ARG002, N802  # the .proto file gives the names and the arguments

import asyncio
import math
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from functools import partial
from typing import Any, TypeAlias

import grpc

from cache.store import Store
from protos.generated import recognizer_pb2 as pb
from protos.generated import recognizer_pb2_grpc as pb_grpc
from recognizer_svc.runs.record import JobRecord, JobStatus
from recognizer_svc.runs.store import RunStore
from recognizer_svc.scoring.model_list import list_models
from recognizer_svc.scoring.queries import Prediction
from recognizer_svc.scoring.scoring_thread import Scoring
from recognizer_svc.service import messages
from recognizer_svc.service.jobs import JobManager
from recognizer_svc.video.kept_features import KeptFeatures
from recognizer_svc.video.stream import VideoStream
from stal_data.errors import InputError, NotFoundError
from svc_common.calls_per_client import Context as RemoteContext
from svc_common.fair_queue import Flow
from svc_common.priorities import priority_of

# Quoted: only the type stubs make this class generic. None where a call comes from this process.
Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any] | None"
_DEFAULT_JOBS = 100


class RecognizerServicer(pb_grpc.RecognizerServicer):
    """Translates between the messages on one side, the job manager and the scoring thread on the other."""

    def __init__(self, store: Store, jobs: JobManager, scoring: Scoring, *, max_kept: int = 0) -> None:
        """max_kept: see `RecognizerConfig`."""
        self._store, self._runs = store, RunStore.of(store)
        self._jobs = jobs
        self._scoring = scoring
        self._keep = partial(KeptFeatures, store, max_kept)

    async def Train(self, request: pb.TrainRequest, context: Context = None) -> AsyncIterator[pb.JobUpdate]:
        # In a thread, because the defaults of the launch come from torch; not in one that slow readers may hold.
        submission = await self._jobs.threads.run(messages.to_submission, request)
        record = await self._jobs.submit(submission)
        async for update in self._updates(record.run_id, skip_history=True):
            yield update

    async def Precompute(self, request: pb.PrecomputeRequest, context: Context = None) -> AsyncIterator[pb.JobUpdate]:
        record = await self._jobs.submit(messages.to_precompute(request))
        async for update in self._updates(record.run_id, skip_history=True):
            yield update

    async def WatchJob(self, request: pb.WatchJobRequest, context: Context = None) -> AsyncIterator[pb.JobUpdate]:
        async for update in self._updates(request.run_id, from_seq=request.from_seq):
            yield update

    async def ListJobs(self, request: pb.ListJobsRequest, context: Context = None) -> pb.ListJobsResponse:
        if request.limit < 0:
            raise InputError(f"limit is {request.limit}, but must be 0 (for {_DEFAULT_JOBS}) or more.")
        records = await self._jobs.newest(request.limit or _DEFAULT_JOBS)
        return pb.ListJobsResponse(jobs=map(self._job, records))

    async def GetJob(self, request: pb.GetJobRequest, context: Context = None) -> pb.Job:
        return self._job(await self._jobs.get(request.run_id))

    async def CancelJob(self, request: pb.CancelJobRequest, context: Context = None) -> pb.Job:
        return self._job(await self._jobs.cancel(request.run_id))

    async def Predict(self, request: pb.PredictRequest, context: Context = None) -> AsyncIterator[pb.PredictResponse]:
        query = messages.to_predict_query(request)
        async with aclosing(self._scoring.predict(query, _deadline(context))) as answers:
            async for answer in answers:
                if isinstance(answer, Prediction):
                    yield pb.PredictResponse(header=messages.from_prediction(answer))
                else:
                    key_frames = map(messages.from_scored, answer)
                    yield pb.PredictResponse(batch=pb.PredictBatch(key_frames=key_frames))

    async def Recognize(self, request: pb.RecognizeRequest, context: RemoteContext) -> pb.RecognizeResponse:
        query, flow = messages.to_recognize_query(request), Flow(context.peer(), priority_of(context))
        model, scores_NC = await self._scoring.recognize(query, _deadline(context), flow)
        actors = [pb.Scores(scores=scores_C.tolist()) for scores_C in scores_NC]
        return pb.RecognizeResponse(model=messages.from_model(model), actors=actors)

    async def RecognizeVideo(
        self, request_iterator: AsyncIterator[pb.RecognizeVideoRequest], context: RemoteContext
    ) -> AsyncIterator[pb.RecognizeVideoResponse]:
        flow = Flow(object(), priority_of(context))
        stream = VideoStream(self._scoring.video, flow, deadline=_deadline(context), keep=self._keep)
        async with self._scoring.video.place(stream):
            async for answer in stream.answers(request_iterator):
                yield answer

    async def LoadModel(self, request: pb.LoadModelRequest, context: Context) -> pb.Model:
        model = await self._scoring.load_model(request.run_id, request.checkpoint, _deadline(context))
        return messages.from_model(model)

    async def UnloadModel(self, request: pb.UnloadModelRequest, context: Context) -> pb.UnloadModelResponse:
        if not await self._scoring.unload_model(request.run_id, request.checkpoint, _deadline(context)):
            name = f"{request.run_id}:{request.checkpoint}" if request.checkpoint else request.run_id
            raise NotFoundError(f"Nobody has loaded '{name[:200]}'; ListModels shows what is loaded.")
        return pb.UnloadModelResponse()

    async def ListModels(self, request: pb.ListModelsRequest, context: Context) -> pb.ListModelsResponse:
        # Not in the scoring thread: whoever asks how the service is must not wait for a split to be scored.
        models = await asyncio.to_thread(list_models, self._store)
        loaded = map(messages.from_model, self._scoring.served.infos())
        return pb.ListModelsResponse(models=map(messages.from_model, models), loaded=loaded)

    async def GetInfo(self, request: pb.GetInfoRequest, context: Context) -> pb.GetInfoResponse:
        records = [record for _, record in self._jobs.active()]
        limits = self._jobs.limits
        return pb.GetInfoResponse(
            device=self._scoring.device,
            machine=limits.host,
            requests=self._scoring.requests,
            max_requests=self._scoring.max_requests,
            running=[record.run_id for record in records if record.status is JobStatus.RUNNING],
            max_jobs=limits.max_jobs,
            queued_jobs=sum(record.status is JobStatus.QUEUED for record in records),
            max_queued=limits.max_queued,
            backbones=[
                pb.HeldBackbone(kind=spec.kind, preset=spec.preset, weights=spec.weights)
                for spec in self._scoring.video.held
            ],
            streams=len(self._scoring.video.streams),
            max_streams=self._scoring.video.max_streams,
        )

    async def _updates(
        self, run_id: str, *, from_seq: int = 0, skip_history: bool = False
    ) -> AsyncIterator[pb.JobUpdate]:
        async for update in self._jobs.watch(run_id, from_seq=from_seq, skip_history=skip_history):
            if isinstance(update, JobRecord):
                yield pb.JobUpdate(job=self._job(update))
            else:
                yield pb.JobUpdate(event=messages.from_event(update))

    def _job(self, record: JobRecord) -> pb.Job:
        return messages.from_job(record, self._runs.folder_of(record))


def _deadline(context: Context) -> float:
    """On the clock of time.monotonic(); infinite when the client set none."""
    remaining_s = None if context is None else context.time_remaining()
    return math.inf if remaining_s is None else time.monotonic() + remaining_s
