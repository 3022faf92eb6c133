"""Client of the recognizer service; needs neither torch nor the store."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Any, Self, TypeAlias, TypeVar

import grpc
import numpy as np
from numpy.typing import NDArray

from protos.generated import recognizer_pb2 as pb
from protos.generated import recognizer_pb2_grpc as pb_grpc
from recognizer_svc.service.bounds import LONGEST_STOP_S
from recognizer_svc.video.client import SERVICE, VideoItem, VideoRequest, VideoStreams, scored_key_frame
from stal_data.errors import StalError
from stal_data.keyframes import ScoredKeyFrame
from svc_common.client import RetryPolicy, call_metadata, call_with_retries, is_retryable, open_channel, pause_s
from svc_common.config import ClientConfig
from svc_common.errors import error_of
from svc_common.fair_queue import Priority
from svc_common.waiting import wait_for_start

# A wrong address should show at once; a service that was there a moment ago gets the time to restart.
_FIRST_CONTACT = RetryPolicy(retries=2)
_RESTART = RetryPolicy(retries=12)
_TIMEOUT_S = 60.0
_ASK_S = 10.0  # one of several that is switched off must not keep the others waiting
_LOAD_TIMEOUT_S = 300.0  # from a bucket, of a large head
_VIDEO_TIMEOUT_S = 300.0  # a head may have to be loaded, and large backbones compute a batch on a CPU for minutes
_CANCEL_TIMEOUT_S = LONGEST_STOP_S + 60.0  # workers write a checkpoint first, and how long is the service's to say

Q = TypeVar("Q")
T = TypeVar("T")
# Quoted: only the type stubs make these classes generic.
Updates: TypeAlias = "grpc.aio.UnaryStreamCall[Any, pb.JobUpdate]"


@dataclass(frozen=True, kw_only=True)
class SplitScores:
    """What the scores of a split come from; see PredictHeader in the .proto file."""

    model: pb.Model
    label_ids: tuple[int, ...]
    """As in the label map, in the order of the scores."""
    feature_set: str
    notes: tuple[str, ...]
    num_key_frames: int
    num_boxes: int


class RecognizerClient:
    """Use with `async with`."""

    def __init__(self, config: ClientConfig, *others: ClientConfig, priority: Priority = "batch") -> None:
        """others: services with the same heads, among which recognize_video chooses; other calls go to one of all.

        priority: `live` goes before batches.
        """
        self._configs = (config, *others)
        self._metadata = call_metadata(priority)

    async def __aenter__(self) -> Self:
        await wait_for_start(self._configs)
        self._channels = {config.address: open_channel(config) for config in self._configs}
        (self._address, self._stub), *_ = await self._least_busy()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for channel in self._channels.values():
            await channel.close()

    async def train(self, request: pb.TrainRequest) -> AsyncGenerator[pb.JobUpdate]:
        """Start a job and yield its updates until it ends; they go on where they stopped when the connection breaks.

        Give the request a request_id, so that it may be sent again.
        """
        async for update in self._updates(request.run_id, lambda: self._stub.Train(request, metadata=self._metadata)):
            yield update

    async def precompute(self, request: pb.PrecomputeRequest) -> AsyncGenerator[pb.JobUpdate]:
        """Start a job that computes features and yield its updates; as `train`."""
        start = partial(self._stub.Precompute, request, metadata=self._metadata)
        async for update in self._updates(request.job_id, start):
            yield update

    async def watch_job(self, run_id: str, *, from_seq: int = 0) -> AsyncGenerator[pb.JobUpdate]:
        """Yield a job's updates, those of the past from event `from_seq` on first, until it ends."""
        request = pb.WatchJobRequest(run_id=run_id, from_seq=from_seq)
        async for update in self._updates(run_id, lambda: self._stub.WatchJob(request, metadata=self._metadata)):
            yield update

    async def list_jobs(self, *, limit: int = 0) -> Sequence[pb.Job]:
        """The newest jobs, newest first; limit 0 means the service's default."""
        return (await self._call(self._stub.ListJobs, pb.ListJobsRequest(limit=limit))).jobs

    async def get_job(self, run_id: str) -> pb.Job:
        return await self._call(self._stub.GetJob, pb.GetJobRequest(run_id=run_id))

    async def cancel_job(self, run_id: str) -> pb.Job:
        """Stop a job and return it when it has ended."""
        return await self._call(self._stub.CancelJob, pb.CancelJobRequest(run_id=run_id), _CANCEL_TIMEOUT_S)

    async def load_model(self, run_id: str, checkpoint: str = "") -> pb.Model:
        """Let the service load a head as its file is now; `recognize` gets its scores from there on."""
        request = pb.LoadModelRequest(run_id=run_id, checkpoint=checkpoint)
        return await self._call(self._stub.LoadModel, request, _LOAD_TIMEOUT_S)

    async def unload_model(self, run_id: str, checkpoint: str = "") -> None:
        """Let the service forget what `load_model` has loaded under this name."""
        request = pb.UnloadModelRequest(run_id=run_id, checkpoint=checkpoint)
        await self._call(self._stub.UnloadModel, request, _LOAD_TIMEOUT_S)

    async def all_models(self) -> pb.ListModelsResponse:
        """What `loaded_models` and `list_models` return, in one call."""
        return await self._call(self._stub.ListModels, pb.ListModelsRequest())

    async def loaded_models(self) -> Sequence[pb.Model]:
        """What `load_model` has loaded, with digests."""
        return (await self.all_models()).loaded

    async def list_models(self) -> Sequence[pb.Model]:
        """Runs that can score, newest first."""
        return (await self.all_models()).models

    async def get_info(self) -> pb.GetInfoResponse:
        """What the service computes on, and how busy it is."""
        return await self._call(self._stub.GetInfo, pb.GetInfoRequest())

    async def recognize(
        self, request: pb.RecognizeRequest, *, timeout_s: float = _TIMEOUT_S
    ) -> tuple[pb.Model, NDArray[np.float32]]:
        """Scores [N, C] of the N boxes of one key frame."""
        answer = await self._call(self._stub.Recognize, request, timeout_s)
        scores = [list(actor.scores) for actor in answer.actors]
        return answer.model, np.array(scores, dtype=np.float32).reshape(len(scores), len(answer.model.labels))

    async def predict(self, request: pb.PredictRequest) -> AsyncGenerator[SplitScores | ScoredKeyFrame]:
        """First what the scores come from, then the key frames that have boxes, in the order of the split."""
        delays = _FIRST_CONTACT.delays()
        answered = False
        while not answered:
            call = self._stub.Predict(request, metadata=self._metadata)
            try:
                async for item in read_predictions(call):
                    answered = True
                    yield item
            except grpc.aio.AioRpcError as error:
                found = self._error(error)
                delay = next(delays, None) if is_retryable(error) and not answered else None
                if delay is None:
                    raise found from error
                await asyncio.sleep(pause_s(delay, found))
            finally:
                call.cancel()

    async def recognize_video(
        self, video: VideoRequest, items: AsyncIterator[VideoItem], *, timeout_s: float = _VIDEO_TIMEOUT_S
    ) -> AsyncGenerator[pb.VideoHeader | ScoredKeyFrame]:
        """Let the service score people on frames that are sent to it; the header first, then each key frame in order.

        items: frames in their order, and key frames in theirs, each at most 191 frames after the first of its clip.
            What they raise is raised after the answers to what came before. Only frames that clips need are sent.
        timeout_s: longest wait while an answer is due.
        After a lost connection another stream goes on with the first key frame that has no answer. Of several services
        the one with the most free streams is taken, and after a failure the next; all must have the same head.
        """
        streams = VideoStreams(await self._least_busy(), video, items, metadata=self._metadata, timeout_s=timeout_s)
        async with aclosing(streams.answers()) as answers:
            async for answer in answers:
                yield answer

    async def _least_busy(self) -> Sequence[tuple[str, "pb_grpc.RecognizerAsyncStub"]]:
        """The services, from the most free streams to those that do not answer."""

        async def free(stub: "pb_grpc.RecognizerAsyncStub") -> int:
            try:
                info = await stub.GetInfo(pb.GetInfoRequest(), timeout=_ASK_S, metadata=self._metadata)
            except grpc.aio.AioRpcError:
                return -1
            return info.max_streams - info.streams

        services = [(address, pb_grpc.RecognizerStub(channel)) for address, channel in self._channels.items()]
        if len(services) == 1:
            return services
        found = await asyncio.gather(*(free(stub) for _, stub in services))
        return [service for _, service in sorted(zip(found, services, strict=True), key=lambda item: -item[0])]

    async def _updates(self, run_id: str, start: Callable[[], Updates]) -> AsyncGenerator[pb.JobUpdate]:
        """Yield updates of `start`, and after a lost connection from the first missing event on."""
        call, delays, seq = start(), _FIRST_CONTACT.delays(), 0
        while True:
            try:
                async for update in call:
                    delays = _RESTART.delays()
                    if update.WhichOneof("update") == "event":
                        seq = update.event.seq
                    yield update
                return
            except grpc.aio.AioRpcError as error:
                found = self._error(error)
                delay = next(delays, None) if is_retryable(error) else None
                if delay is None:
                    raise found from error
            finally:
                call.cancel()
            await asyncio.sleep(pause_s(delay, found))
            again = pb.WatchJobRequest(run_id=run_id, from_seq=seq + 1)
            call = self._stub.WatchJob(again, metadata=self._metadata) if seq else start()

    async def _call(
        self, method: "grpc.aio.UnaryUnaryMultiCallable[Q, T]", request: Q, timeout_s: float = _TIMEOUT_S
    ) -> T:
        async def once() -> T:
            return await method(request, timeout=timeout_s, metadata=self._metadata)

        return await call_with_retries(once, service=SERVICE, address=self._address, policy=_FIRST_CONTACT)

    def _error(self, error: grpc.aio.AioRpcError) -> StalError:
        return error_of(error, service=SERVICE, address=self._address)


async def read_predictions(
    responses: AsyncIterable[pb.PredictResponse],
) -> AsyncGenerator[SplitScores | ScoredKeyFrame]:
    """What the messages hold."""
    num_classes = 0
    async for response in responses:
        if response.WhichOneof("response") == "header":
            num_classes = len(response.header.model.labels)
            yield _split_scores(response.header)
        for item in response.batch.key_frames:
            yield scored_key_frame(item, num_classes)


def _split_scores(header: pb.PredictHeader) -> SplitScores:
    return SplitScores(
        model=header.model,
        label_ids=tuple(label.id for label in header.model.labels),
        feature_set=header.feature_set,
        notes=tuple(header.notes),
        num_key_frames=header.key_frames,
        num_boxes=header.boxes,
    )
