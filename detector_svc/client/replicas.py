"""Hands the frames of one feed to all replicas of a detector: a stream to each, as long as it is there.

A replica that fails or stops gives its unanswered frames back, and is tried again for as long as the feed goes on. The
feed fails when all replicas have used up their attempts since their last answer.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing
from types import TracebackType
from typing import Self

import grpc

from detector_svc.client.connection import Connection, DetectorInfo
from detector_svc.client.frame_feed import FrameFeed, ReplicaShare
from detector_svc.detections import FrameDetections, from_message
from stal_data.errors import NotFoundError, StalError
from svc_common.addresses import Resolver
from svc_common.client import RetryPolicy, is_retryable, pause_s
from svc_common.config import ClientConfig
from svc_common.errors import BusyError, DeadlineError, ServiceError, ServiceUnavailableError

log = logging.getLogger(__name__)

Feed = FrameFeed[FrameDetections | str]
Connect = Callable[[ClientConfig], Connection]
Disconnect = Callable[[ClientConfig], Awaitable[None]]
Check = Callable[[str, DetectorInfo], None]
"""Called with the address of a replica and what it says it runs; raises StalError when that must not be mixed in."""
PASSING = (BusyError, DeadlineError, ServiceUnavailableError)
"""Errors that go away by waiting."""
_PARTING_S = 1.0
"""How long streams without frames get to end in order."""


async def resolve_all(
    services: Sequence[ClientConfig], resolve: Resolver
) -> tuple[dict[str, ClientConfig], dict[str, StalError]]:
    """The replicas behind lists and names, by address, and what is wrong with names that have none."""
    replicas: dict[str, ClientConfig] = {}
    errors: dict[str, StalError] = {}
    for service in services:
        if not service.is_name:
            replicas.setdefault(service.address, service)
            continue
        try:
            for address in await resolve(*service.endpoint):
                replicas.setdefault(address, service.at(address))
        except NotFoundError as error:
            errors[service.address] = error
    return replicas, errors


def none_left(errors: Mapping[str, StalError]) -> StalError:
    """What to raise when every replica has failed: its own error where there is one. errors: by address."""
    if len(errors) == 1:
        return next(iter(errors.values()))
    reasons = "".join(f"\n  {address}: {error}" for address, error in errors.items())
    return ServiceUnavailableError(f"None of {len(errors)} detector replicas can be used:{reasons}")


class Replica:
    """One address. Its task runs until it is told to leave and has no frame any more."""

    def __init__(
        self,
        service: ClientConfig,
        connection: Connection,
        feed: Feed,
        *,
        retry: RetryPolicy,
        check: Check,
        judge: Callable[[], None],
    ) -> None:
        """judge: called when the attempts are used up."""
        self.service = service
        self._connection, self._feed, self._retry = connection, feed, retry
        self._check, self._judge = check, judge
        self._delays: Iterator[float] = retry.delays()
        self._left = asyncio.Event()
        self._share: ReplicaShare[FrameDetections | str] | None = None
        self.spent: StalError | None = None
        """The last error, once the attempts are used up; None while another attempt gets on."""
        self.task = asyncio.create_task(self._run())

    @property
    def leaving(self) -> bool:
        return self._left.is_set()

    def leave(self) -> None:
        """Take no more frames; end after the answers to those that were taken."""
        self._left.set()
        if self._share is not None:
            self._share.end()

    async def _run(self) -> None:
        try:
            while not (self._left.is_set() or self._feed.done):
                if (error := await self._attempt()) is not None:
                    await self._pause(error)
        except Exception as error:  # noqa: BLE001 - a fault of ours must reach the caller, who waits for answers
            self._feed.fail(error)

    async def _attempt(self) -> StalError | None:
        """One stream to its end; what it ended with."""
        try:
            with ReplicaShare(self._feed, address=self._connection.address) as share:
                self._share = share
                try:
                    async with self._connection.watched(stopping=share.end):
                        self._check(self._connection.address, await self._connection.info())
                        self.spent = None
                        await self._stream(share)
                finally:
                    held, self._share = len(share), None
        except grpc.aio.AioRpcError as error:
            found, retryable = self._connection.error_of(error), is_retryable(error)
        except StalError as error:
            found, retryable = error, isinstance(error, PASSING)
        else:
            return None
        if not retryable:
            self._delays = iter(())
        if held:
            log.warning("%s; its %d unanswered frames are sent again", found, held)
        return found

    async def _stream(self, share: ReplicaShare[FrameDetections | str]) -> None:
        if self._left.is_set():
            return
        async with aclosing(self._connection.detect(share.requests(), share.waiting_s)) as answers:
            async for answer in answers:
                error = answer.HasField("error")
                share.answered(answer.frame_id, answer.error if error else from_message(answer.detections))
                self._delays = self._retry.delays()
        if len(share) and not share.ended:
            raise ServiceError(
                f"The detector service at {self._connection.address} ended the stream with frames unanswered."
            )

    async def _pause(self, error: StalError) -> None:
        """Wait before the next attempt; used-up attempts are made at the longest distance, while others serve."""
        delay = next(self._delays, None)
        if delay is None:
            if self.spent is None:
                log.warning("%s", error)
            self.spent, delay = error, self._retry.max_s
            self._judge()
        else:
            delay = pause_s(delay, error)
            log.warning("%s; trying again in %.1f s", error, delay)
        try:
            async with asyncio.timeout(delay):
                await self._left.wait()
        except TimeoutError:
            pass


class ReplicaPool:
    """Use with `async with` while the feed's answers are read."""

    def __init__(
        self,
        services: Sequence[ClientConfig],
        feed: Feed,
        *,
        connect: Connect,
        disconnect: Disconnect,
        check: Check,
        retry: RetryPolicy,
        resolve: Resolver,
        resolve_every_s: float,
    ) -> None:
        """connect, disconnect: for replicas that join, and for those that have left."""
        self._services, self._feed = services, feed
        self._connect, self._disconnect = connect, disconnect
        self._check, self._retry = check, retry
        self._resolve, self._resolve_every_s = resolve, resolve_every_s
        self._replicas: dict[str, Replica] = {}
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._follow())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._task is not None
        self._task.cancel()
        tasks = [self._task]
        for replica in self._replicas.values():
            replica.leave()
            tasks.append(replica.task)
        if error is None:
            await asyncio.wait(tasks, timeout=_PARTING_S)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _follow(self) -> None:
        """Keep the replicas what the names stand for; a list stays as it is."""
        delays = self._retry.delays()
        try:
            while True:
                found, errors = await resolve_all(self._services, self._resolve)
                await self._adapt(found, complete=not errors)
                if not any(service.is_name for service in self._services):
                    return
                if self._replicas:
                    delays = self._retry.delays()
                    await asyncio.sleep(self._resolve_every_s)
                elif (delay := next(delays, None)) is not None:
                    await asyncio.sleep(delay)
                else:
                    self._feed.fail(none_left(errors))
                    return
        except Exception as error:  # noqa: BLE001 - a fault of ours must reach the caller, who waits for answers
            self._feed.fail(error)

    async def _adapt(self, wanted: Mapping[str, ClientConfig], *, complete: bool) -> None:
        """Add and dismiss replicas. complete: every name was resolved; else nobody is dismissed."""
        for address, replica in list(self._replicas.items()):
            if replica.task.done():
                del self._replicas[address]
                if replica.leaving:
                    await self._disconnect(replica.service)
            elif complete and address not in wanted and not replica.leaving:
                log.warning("The detector at %s is not among the replicas any more.", address)
                replica.leave()
        for address, service in wanted.items():
            if address not in self._replicas:
                connection = self._connect(service)
                self._replicas[address] = Replica(
                    service, connection, self._feed, retry=self._retry, check=self._check, judge=self._judge
                )

    def _judge(self) -> None:
        errors = {address: replica.spent for address, replica in self._replicas.items() if replica.spent is not None}
        if len(errors) == len(self._replicas):
            self._feed.fail(none_left(errors))
