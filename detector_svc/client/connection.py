"""One detector service: its channel and its calls, each tried once or, where nothing can go wrong, a few times."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TypeVar, cast

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from protos.generated import detector_pb2 as pb
from protos.generated import detector_pb2_grpc as rpc
from stal_data.errors import StalError
from svc_common.client import RetryPolicy, call_metadata, call_with_retries, open_channel
from svc_common.config import ClientConfig
from svc_common.errors import DeadlineError, ServiceUnavailableError, error_of
from svc_common.proxies import through_proxy

T = TypeVar("T")
SERVICE = "detector"
_FULL_NAME = "stal.detector.v1.Detector"
_SERVING = health_pb2.HealthCheckResponse.SERVING
# A wrong address should show at once; a service that was there a moment ago gets the time to restart.
_FIRST_CONTACT = RetryPolicy(retries=2)
# An older service, or one with as many watchers as it takes.
_NOT_WATCHED = (grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.RESOURCE_EXHAUSTED)
_STARTING_S = 5.0
"""How long a service that is not ready is watched before the attempt counts as failed."""


@dataclass(frozen=True, kw_only=True)
class DetectorInfo:
    """What a running service says about itself; see GetInfoResponse in the .proto file."""

    name: str
    weights: str
    height: int
    width: int
    confidence: float
    overlap: float
    library: str
    classes: tuple[str, ...]
    device: str
    max_batch: int
    pending_frames: int
    queue_size: int

    @property
    def model(self) -> dict[str, str | float]:
        """All that decides about boxes, and the name that they are filed under: what replicas must agree on."""
        return {
            "name": self.name,
            "weights": self.weights,
            "height": self.height,
            "width": self.width,
            "confidence": self.confidence,
            "overlap": self.overlap,
            "library": self.library,
            "classes": ",".join(self.classes),
        }


class Connection:
    """Connects with the first call; `close` it in any case."""

    def __init__(self, config: ClientConfig, *, timeout_s: float) -> None:
        """timeout_s: longest wait for one answer; for a unary call its deadline."""
        self.address = config.address
        self._timeout_s = timeout_s
        self._metadata = call_metadata()
        self._channel = open_channel(config)
        self._stub: rpc.DetectorAsyncStub = rpc.DetectorStub(self._channel)
        self._health: health_pb2_grpc.HealthStub = health_pb2_grpc.HealthStub(self._channel)

    async def close(self) -> None:
        await self._channel.close()

    def error_of(self, error: grpc.aio.AioRpcError) -> StalError:
        """The project's error for a failed call here."""
        return error_of(error, service=SERVICE, address=self.address)

    async def info(self, patience_s: float | None = None) -> DetectorInfo:
        """Ask what the service runs. patience_s: for all attempts together; None leaves it to each attempt."""

        async def call() -> pb.GetInfoResponse:
            return await self._stub.GetInfo(pb.GetInfoRequest(), timeout=self._timeout_s, metadata=self._metadata)

        try:
            async with asyncio.timeout(patience_s):
                answer = await call_with_retries(call, service=SERVICE, address=self.address, policy=_FIRST_CONTACT)
        except TimeoutError:
            raise DeadlineError(
                f"The {SERVICE} service at {self.address} does not answer{through_proxy(self.address)} within "
                f"{patience_s:g} s."
            ) from None
        return DetectorInfo(
            name=answer.name,
            weights=answer.weights,
            height=answer.image_height,
            width=answer.image_width,
            confidence=answer.confidence,
            overlap=answer.overlap,
            library=answer.library,
            classes=tuple(answer.classes),
            device=answer.device,
            max_batch=answer.max_batch,
            pending_frames=answer.pending_frames,
            queue_size=answer.queue_size,
        )

    @asynccontextmanager
    async def watched(self, *, stopping: Callable[[], None]) -> AsyncIterator[None]:
        """Wait until the service is ready, then watch its health for the time of the block.

        stopping: called when the service is not ready any more. A service that lets nobody watch it is taken as ready:
        the calls themselves then say when it is not.
        """
        call = self._health.Watch(health_pb2.HealthCheckRequest(service=_FULL_NAME), metadata=self._metadata)
        statuses = aiter(call)
        watching: asyncio.Task[None] | None = None
        try:
            if await self._serves(statuses):
                watching = asyncio.create_task(_until_not_serving(statuses, stopping))
            yield
        finally:
            if watching is not None:
                watching.cancel()
                await asyncio.gather(watching, return_exceptions=True)
            call.cancel()

    async def _serves(self, statuses: AsyncIterator[health_pb2.HealthCheckResponse]) -> bool:
        """Wait until it does; False when it does not tell."""
        waiting_s = self._timeout_s
        try:
            while True:
                async with asyncio.timeout(waiting_s):
                    status = await anext(statuses, None)
                if status is None:
                    raise ServiceUnavailableError(f"The {SERVICE} service at {self.address} is stopping.")
                if status.status == _SERVING:
                    return True
                waiting_s = min(_STARTING_S, self._timeout_s)
        except TimeoutError:
            raise ServiceUnavailableError(f"The {SERVICE} service at {self.address} is not ready.") from None
        except grpc.aio.AioRpcError as error:
            if error.code() in _NOT_WATCHED:
                return False
            raise

    def detect(
        self, requests: AsyncIterator[pb.DetectRequest], waiting_s: Callable[[], float]
    ) -> AsyncGenerator[pb.DetectResponse]:
        """One stream. waiting_s: how long an answer has been due."""
        return self._read(self._stub.Detect(requests, metadata=self._metadata), waiting_s)

    def propose(self, dataset: str, split: str) -> AsyncGenerator[pb.ProposeResponse]:
        """One run of a split."""
        return self._read(self._stub.Propose(pb.ProposeRequest(dataset=dataset, split=split), metadata=self._metadata))

    async def _read(self, call: AsyncIterable[T], waiting_s: Callable[[], float] | None = None) -> AsyncGenerator[T]:
        """Yield a call's answers; DeadlineError when none comes within the timeout.

        waiting_s: how long an answer has been due; None when one is always due.
        """
        answers = aiter(call)
        timeout_s = self._timeout_s
        try:
            while True:
                reading = asyncio.ensure_future(anext(answers, None))
                try:
                    while not (await asyncio.wait({reading}, timeout=timeout_s))[0]:
                        if waiting_s is None or waiting_s() >= timeout_s:
                            raise DeadlineError(
                                f"The {SERVICE} service at {self.address} sent no answer for {timeout_s:g} s. "
                                "Is it overloaded? Raise --timeout-s."
                            )
                finally:
                    reading.cancel()
                if (answer := reading.result()) is None:
                    return
                yield answer
        finally:
            cast("grpc.aio.Call", call).cancel()


async def _until_not_serving(
    statuses: AsyncIterator[health_pb2.HealthCheckResponse], stopping: Callable[[], None]
) -> None:
    async for status in statuses:
        if status.status != _SERVING:
            stopping()
            return
