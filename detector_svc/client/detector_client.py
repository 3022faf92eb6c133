"""Client of the detector service and its replicas. Loses and doubles no frame, whatever happens to the connections."""

import asyncio
import logging
import math
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Coroutine, Iterator, Mapping
from contextlib import aclosing, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import grpc

from detector_svc.client.frame_queue import Answer, FrameQueue, FrameShare
from detector_svc.detections import FrameDetections, from_message
from protos.generated import detector_pb2 as pb
from protos.generated import detector_pb2_grpc as rpc
from stal_data.errors import ConflictError, InputError, StalError
from stal_data.keyframes import KeyFrame
from svc_common.addresses import Resolver, resolve_all, resolve_name
from svc_common.client import RetryPolicy, call_metadata, call_with_retries, next_answer, open_channel, pause_s
from svc_common.config import ClientConfig
from svc_common.errors import BusyError, DeadlineError, ServiceError, ServiceUnavailableError, error_of
from svc_common.fair_queue import Priority
from svc_common.waiting import wait_for_start

log = logging.getLogger(__name__)

T = TypeVar("T")
SERVICE = "detector"
# A wrong address should show at once; a service that was there a moment ago gets the time to restart, about a minute.
_FIRST_CONTACT = RetryPolicy(retries=2)
_RESTART = RetryPolicy(retries=19)
_ASK_S = 10.0
"""How long the first answer of one of several replicas may take."""
_PARTING_S = 1.0
"""How long streams without frames get to end in order."""
_PASSING = (BusyError, DeadlineError, ServiceUnavailableError)
"""Errors that go away by waiting."""


@dataclass(frozen=True, kw_only=True)
class DetectorClientConfig:
    """How the client behaves."""

    services: tuple[ClientConfig, ...]
    """The replicas; a name (dns:///) stands for each of its addresses."""
    window: int = 24
    """Frames in flight at each replica; more than the service's window only wait in buffers."""
    timeout_s: float = 60.0
    """Longest wait for one answer; for a unary call its deadline."""
    retry: RetryPolicy = _RESTART
    """Attempts at each replica without a single answer in between."""
    priority: Priority = "batch"
    """`live` goes before batches."""
    resolve_every_s: float = 5.0
    """How often names are looked up while frames are sent."""


def model_of(info: pb.GetInfoResponse) -> dict[str, str | float]:
    """All that decides about boxes, and the name that they are filed under: what replicas must agree on."""
    return {
        "name": info.name,
        "weights": info.weights,
        "height": info.image_height,
        "width": info.image_width,
        "confidence": info.confidence,
        "overlap": info.overlap,
        "library": info.library,
        "classes": ",".join(info.classes),
    }


class DetectorClient:
    """Connects for the time of each call."""

    def __init__(self, config: DetectorClientConfig, *, resolve: Resolver = resolve_name) -> None:
        """resolve: how names become addresses."""
        self._config, self._resolve = config, resolve
        self._metadata = call_metadata(config.priority)
        self._model: dict[str, str | float] | None = None
        """What every replica must run, once one has said so."""

    async def info(self) -> pb.GetInfoResponse:
        """Ask all replicas what they run; those that do not answer are left out, unless it is all of them.

        Replicas that run different models, or refuse this client, are an error.
        """
        await wait_for_start(self._config.services)
        replicas, errors = await resolve_all(self._config.services, self._resolve)
        # One that is switched off must not keep the others waiting for long.
        timeout_s = min(self._config.timeout_s, _ASK_S) if len(replicas) > 1 else self._config.timeout_s

        async def ask(service: ClientConfig) -> pb.GetInfoResponse:
            async with open_channel(service) as channel:
                return await call_with_retries(
                    lambda: self._ask(rpc.DetectorStub(channel), timeout_s),
                    service=SERVICE,
                    address=service.address,
                    policy=_FIRST_CONTACT,
                )

        infos: list[pb.GetInfoResponse] = []
        answers = await asyncio.gather(*map(ask, replicas.values()), return_exceptions=True)
        for address, answer in zip(replicas, answers, strict=True):
            if isinstance(answer, pb.GetInfoResponse):
                self._check(address, answer)
                infos.append(answer)
            elif isinstance(answer, StalError):
                errors[address] = answer
            else:
                raise answer
        if not infos:
            raise _none_left(errors)
        for address, error in errors.items():
            if not isinstance(error, _PASSING):
                raise error if address in str(error) else type(error)(f"{address}: {error}")
            log.warning("The detector at %s is left out until it answers: %s", address, error)
        return infos[0]

    async def _ask(self, stub: "rpc.DetectorAsyncStub", timeout_s: float) -> pb.GetInfoResponse:
        return await stub.GetInfo(pb.GetInfoRequest(), timeout=timeout_s, metadata=self._metadata)

    def _check(self, address: str, info: pb.GetInfoResponse) -> None:
        """The first answer says what all must run."""
        model = model_of(info)
        self._model = expected = self._model or model
        different = [
            f"{field} {value} instead of {expected[field]}"
            for field, value in model.items()
            if value != expected[field]
        ]
        if different:
            raise ConflictError(
                f"The detector at {address} runs another model than the other replicas, or than it ran before: "
                f"{'; '.join(different)}. Start all with the same weights and options, or name only those that fit."
            )

    async def detect(self, frames: AsyncIterator[tuple[str, bytes]]) -> AsyncGenerator[tuple[str, Answer]]:
        """Send (frame id, encoded image) pairs; yield (frame id, detections, or what is wrong with that image).

        Exactly one answer per frame, in any order and from any replica; ids must be unique among the frames. Frames
        that a replica leaves unanswered are sent again, to whichever is free. An exception of `frames` is raised after
        the answers to what came before.
        """
        queue = FrameQueue(frames, window=self._config.window)
        async with _Replicas(self, queue).taking(), aclosing(queue.answers()) as answers:
            async for answer in answers:
                yield answer

    async def propose(
        self, dataset: str, split: str
    ) -> AsyncGenerator[pb.ProposeHeader | tuple[KeyFrame, FrameDetections]]:
        """Let one service run a split below its data root; yields the head, then each key frame in order.

        A connection that breaks is an error, since the service would start from the beginning.
        """
        if len(self._config.services) > 1:
            addresses = ", ".join(service.address for service in self._config.services)
            raise InputError(
                f"One service runs a split by itself, so give one address instead of {addresses}; to use several, let "
                "the client send the frames (without --server-side)."
            )
        service = self._config.services[0]
        async with open_channel(service) as channel:
            request = pb.ProposeRequest(dataset=dataset, split=split)
            call = rpc.DetectorStub(channel).Propose(request, metadata=self._metadata)
            async with aclosing(self._read(call, service.address)) as answers:
                async for answer in answers:
                    if answer.HasField("header"):
                        yield answer.header
                    else:
                        item = answer.key_frame
                        yield KeyFrame(item.video, item.time_ms), from_message(item.detections)

    async def _read(
        self, call: AsyncIterable[T], address: str, waiting_s: Callable[[], float] = lambda: math.inf
    ) -> AsyncGenerator[T]:
        """Yield a call's answers; DeadlineError when none comes within the timeout.

        waiting_s: how long an answer has been due; by default one always is.
        """
        answers = aiter(call)
        try:
            while True:
                with _own_errors(address):
                    answer = await next_answer(
                        answers,
                        timeout_s=self._config.timeout_s,
                        waiting_s=waiting_s,
                        service=SERVICE,
                        address=address,
                    )
                if answer is None:
                    return
                yield answer
        finally:
            cast("grpc.aio.Call", call).cancel()


@contextmanager
def _own_errors(address: str) -> Iterator[None]:
    """Let failed calls raise the project's errors."""
    try:
        yield
    except grpc.aio.AioRpcError as error:
        raise error_of(error, service=SERVICE, address=address) from error


def _none_left(errors: Mapping[str, StalError]) -> StalError:
    """What to raise when every replica has failed: its own error where there is one. errors: by address."""
    if len(errors) == 1:
        return next(iter(errors.values()))
    reasons = "".join(f"\n  {address}: {error}" for address, error in errors.items())
    return ServiceUnavailableError(f"None of {len(errors)} detector replicas can be used:{reasons}")


class _Replicas:
    """The replicas that take the frames of one queue: one task for each address.

    One that fails is tried again for as long as others get on. The queue fails when all have used up their attempts
    since their last answers.
    """

    def __init__(self, client: DetectorClient, queue: FrameQueue) -> None:
        self._client, self._queue = client, queue
        self._config, self._resolve = client._config, client._resolve
        self._wanted: set[str] = set()
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._spent: dict[str, StalError] = {}
        """The last errors of those whose attempts are used up, by address."""

    @asynccontextmanager
    async def taking(self) -> AsyncIterator[None]:
        following = self._start(self._follow())
        try:
            yield
            following.cancel()
            if self._tasks:
                await asyncio.wait(self._tasks.values(), timeout=_PARTING_S)
        finally:
            tasks = [following, *self._tasks.values()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        """What no attempt expects must reach the caller, who waits for answers."""
        if not task.cancelled() and (error := task.exception()) is not None:
            self._queue.fail(error)

    def _takes(self, address: str) -> bool:
        return address in self._wanted and not self._queue.done

    async def _follow(self) -> None:
        """Use the addresses of the list, and those that names stand for, which come and go."""
        delays = self._config.retry.delays()
        while True:
            found, errors = await resolve_all(self._config.services, self._resolve)
            # A name that does not resolve for a moment dismisses nobody.
            wanted = set(found) | (self._wanted if errors else set())
            for address in self._wanted - wanted:
                log.warning("The detector at %s is not among the replicas any more.", address)
            self._wanted = wanted
            self._queue.wake()
            for address, service in found.items():
                if address not in self._tasks:
                    self._tasks[address] = self._start(self._use(service))
            if not any(service.is_name for service in self._config.services):
                return
            if self._tasks:
                delays = self._config.retry.delays()
                await asyncio.sleep(self._config.resolve_every_s)
            elif (delay := next(delays, None)) is not None:
                await asyncio.sleep(delay)
            else:
                raise _none_left(errors)

    async def _use(self, service: ClientConfig) -> None:
        """Have a replica take frames until all have their answers, or its address has left the name."""
        address, delays = service.address, self._config.retry.delays()
        try:
            async with open_channel(service) as channel:
                while self._takes(address):
                    share = FrameShare(self._queue, address, takes=lambda: self._takes(address))
                    try:
                        with share:
                            await self._stream(rpc.DetectorStub(channel), address, share)
                    except StalError as error:
                        if share.answered:
                            delays = self._config.retry.delays()
                        if not isinstance(error, _PASSING):
                            delays = iter(())
                        await self._pause(address, error, next(delays, None))
        finally:
            del self._tasks[address]
            self._spent.pop(address, None)

    async def _stream(self, stub: "rpc.DetectorAsyncStub", address: str, share: FrameShare) -> None:
        client = self._client
        with _own_errors(address):
            client._check(address, await client._ask(stub, self._config.timeout_s))
        self._spent.pop(address, None)
        call = stub.Detect(share.requests(), metadata=client._metadata)
        async with aclosing(client._read(call, address, share.waiting_s)) as answers:
            async for answer in answers:
                error = answer.HasField("error")
                share.answer(answer.frame_id, answer.error if error else from_message(answer.detections))
        if len(share):
            raise ServiceError(f"The detector service at {address} ended the stream with frames unanswered.")

    async def _pause(self, address: str, error: StalError, delay_s: float | None) -> None:
        """Wait before the next attempt. None: they are used up, and made at the longest distance while others serve."""
        if delay_s is not None:
            delay_s = pause_s(delay_s, error)
            log.warning("%s; trying again in %.1f s", error, delay_s)
        else:
            if address not in self._spent:
                log.warning("%s", error)
            self._spent[address], delay_s = error, self._config.retry.max_s
            if self._spent.keys() == self._tasks.keys():
                self._queue.fail(_none_left(self._spent))
        with suppress(TimeoutError):
            async with asyncio.timeout(delay_s):
                while self._takes(address):
                    await self._queue.next_change()
