"""Client of the detector service. Loses and doubles no frame, whatever happens to the connection."""

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Iterator
from contextlib import aclosing
from dataclasses import dataclass
from types import TracebackType
from typing import Self, TypeVar, cast

import grpc

from detector_svc.detections import FrameDetections, from_message
from detector_svc.frame_feed import FrameFeed
from protos.generated import detector_pb2 as pb
from protos.generated import detector_pb2_grpc as rpc
from stal_data.errors import StalError
from stal_data.keyframes import KeyFrame
from svc_common.client import RetryPolicy, call_metadata, call_with_retries, is_retryable, open_channel
from svc_common.config import ClientConfig
from svc_common.errors import DeadlineError, ServiceError, error_of

log = logging.getLogger(__name__)

T = TypeVar("T")
SERVICE = "detector"
# A wrong address should show at once; a service that was there a moment ago gets the time to restart.
_FIRST_CONTACT = RetryPolicy(retries=2)
_RESTART = RetryPolicy(retries=9)


@dataclass(frozen=True, kw_only=True)
class DetectorInfo:
    """What a running service says about itself; see GetInfoResponse in the .proto file."""

    name: str
    weights: str
    height: int
    width: int
    confidence: float
    library: str
    classes: tuple[str, ...]
    device: str
    max_batch: int
    pending_frames: int
    queue_size: int


@dataclass(frozen=True, kw_only=True)
class ProposedSplit:
    """Head of a Propose answer."""

    dataset: str
    split: str
    key_frames: int


@dataclass(frozen=True, kw_only=True)
class DetectorClientConfig:
    """How the client behaves."""

    connection: ClientConfig
    window: int = 24
    """Frames in flight; more than the service's window only wait in buffers."""
    timeout_s: float = 60.0
    """Longest wait for one answer; for a unary call its deadline."""
    retry: RetryPolicy = _RESTART
    """Attempts without a single answer in between."""


class DetectorClient:
    """Use with `async with`."""

    def __init__(self, config: DetectorClientConfig) -> None:
        self._config = config
        self._address = config.connection.address
        self._metadata = call_metadata()

    async def __aenter__(self) -> Self:
        self._channel = open_channel(self._config.connection)
        self._stub: rpc.DetectorAsyncStub = rpc.DetectorStub(self._channel)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._channel.close()

    async def info(self) -> DetectorInfo:
        """Ask what the service runs."""

        async def call() -> pb.GetInfoResponse:
            return await self._stub.GetInfo(
                pb.GetInfoRequest(), timeout=self._config.timeout_s, metadata=self._metadata
            )

        answer = await call_with_retries(call, service=SERVICE, address=self._address, policy=_FIRST_CONTACT)
        return DetectorInfo(
            name=answer.name,
            weights=answer.weights,
            height=answer.image_height,
            width=answer.image_width,
            confidence=answer.confidence,
            library=answer.library,
            classes=tuple(answer.classes),
            device=answer.device,
            max_batch=answer.max_batch,
            pending_frames=answer.pending_frames,
            queue_size=answer.queue_size,
        )

    async def detect(
        self, frames: AsyncIterator[tuple[str, bytes]]
    ) -> AsyncGenerator[tuple[str, FrameDetections | str]]:
        """Send (frame id, encoded image) pairs; yield (frame id, detections, or what is wrong with that image).

        Exactly one answer per frame, in any order; ids must be unique among the frames. After a broken connection only
        the unanswered frames are sent again. An exception of `frames` is raised after the answers to what came before.
        """
        async with FrameFeed(frames, window=self._config.window) as feed:
            delays = self._config.retry.delays()
            while not feed.done:
                try:
                    async with aclosing(self._one_stream(feed)) as answers:
                        async for answer in answers:
                            delays = self._config.retry.delays()
                            yield answer
                except (grpc.aio.AioRpcError, DeadlineError) as error:
                    await self._wait_or_raise(delays, error)
            feed.raise_source_error()

    async def propose(
        self, dataset: str, split: str
    ) -> AsyncGenerator[ProposedSplit | tuple[KeyFrame, FrameDetections]]:
        """Let the service run a split below its data root; yields the head, then each key frame in order.

        A connection that breaks after the head is an error, since the service would start from the beginning.
        """
        delays, retryable = self._config.retry.delays(), True
        while True:
            try:
                call = self._stub.Propose(pb.ProposeRequest(dataset=dataset, split=split), metadata=self._metadata)
                async with aclosing(self._read(call)) as answers:
                    async for answer in answers:
                        retryable = False
                        yield _proposed(answer)
                return
            except (grpc.aio.AioRpcError, DeadlineError) as error:
                await self._wait_or_raise(delays if retryable else iter(()), error)

    async def _one_stream(self, feed: FrameFeed) -> AsyncGenerator[tuple[str, FrameDetections | str]]:
        call = self._stub.Detect(feed.requests(), metadata=self._metadata)
        async with aclosing(self._read(call, feed.waiting_s)) as answers:
            async for answer in answers:
                feed.answered(answer.frame_id)
                yield answer.frame_id, answer.error if answer.HasField("error") else from_message(answer.detections)
        if not feed.done:
            raise ServiceError(f"The detector service at {self._address} ended the stream with frames unanswered.")

    async def _read(self, call: AsyncIterable[T], waiting_s: Callable[[], float] | None = None) -> AsyncGenerator[T]:
        """Yield a call's answers; DeadlineError when none comes within the timeout.

        waiting_s: how long an answer has been due; None when one is always due.
        """
        answers = aiter(call)
        timeout_s = self._config.timeout_s
        try:
            while True:
                reading = asyncio.ensure_future(anext(answers, None))
                try:
                    while not (await asyncio.wait({reading}, timeout=timeout_s))[0]:
                        if waiting_s is None or waiting_s() >= timeout_s:
                            raise DeadlineError(
                                f"The {SERVICE} service at {self._address} sent no answer for {timeout_s:g} s. "
                                "Is it overloaded? Raise --timeout-s."
                            )
                finally:
                    reading.cancel()
                if (answer := reading.result()) is None:
                    return
                yield answer
        finally:
            cast("grpc.aio.Call", call).cancel()

    async def _wait_or_raise(self, delays: Iterator[float], error: grpc.aio.AioRpcError | DeadlineError) -> None:
        """Sleep before the next attempt, or raise the project's error when there is none."""
        if isinstance(error, grpc.aio.AioRpcError):
            retryable = is_retryable(error)
            final: StalError = error_of(error, service=SERVICE, address=self._address)
        else:
            retryable, final = True, error
        delay = next(delays, None) if retryable else None
        if delay is None:
            raise final from error
        log.warning("%s; trying again in %.1f s", final, delay)
        await asyncio.sleep(delay)


def _proposed(answer: pb.ProposeResponse) -> ProposedSplit | tuple[KeyFrame, FrameDetections]:
    if answer.HasField("header"):
        head = answer.header
        return ProposedSplit(dataset=head.dataset, split=head.split, key_frames=head.key_frames)
    item = answer.key_frame
    return KeyFrame(item.video, item.timestamp), from_message(item.detections)
