"""Client of the detector service and its replicas. Loses and doubles no frame, whatever happens to the connections."""

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import grpc

from detector_svc.client.connection import Connection, DetectorInfo
from detector_svc.client.frame_feed import FrameFeed
from detector_svc.client.replicas import PASSING, Feed, ReplicaPool, none_left, resolve_all
from detector_svc.detections import FrameDetections, from_message
from protos.generated import detector_pb2 as pb
from stal_data.errors import ConflictError, InputError, StalError
from stal_data.keyframes import KeyFrame
from svc_common.addresses import Resolver, resolve_name
from svc_common.client import RetryPolicy, is_retryable, pause_s
from svc_common.config import ClientConfig
from svc_common.errors import DeadlineError

log = logging.getLogger(__name__)

# A service that was there a moment ago gets the time to restart.
_RESTART = RetryPolicy(retries=9)
_ASK_S = 10.0


@dataclass(frozen=True, kw_only=True)
class ProposedSplit:
    """Head of a Propose answer."""

    dataset: str
    split: str
    key_frames: int


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
    resolve_every_s: float = 5.0
    """How often names are looked up while frames are sent."""


class DetectorClient:
    """Use with `async with`."""

    def __init__(self, config: DetectorClientConfig, *, resolve: Resolver = resolve_name) -> None:
        """resolve: how names become addresses."""
        self._config, self._resolve = config, resolve
        self._connections: dict[ClientConfig, Connection] = {}
        self._model: dict[str, str | float] | None = None
        """What every replica must run, once one has said so."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.gather(*map(self._disconnect, tuple(self._connections)))

    def _connect(self, service: ClientConfig) -> Connection:
        if service not in self._connections:
            self._connections[service] = Connection(service, timeout_s=self._config.timeout_s)
        return self._connections[service]

    async def _disconnect(self, service: ClientConfig) -> None:
        if (connection := self._connections.pop(service, None)) is not None:
            await connection.close()

    async def info(self) -> DetectorInfo:
        """Ask all replicas what they run; those that do not answer are left out, unless it is all of them.

        Replicas that run different models, or refuse this client, are an error.
        """
        replicas, errors = await resolve_all(self._config.services, self._resolve)
        # One that is switched off must not keep the others waiting for long.
        patience_s = _ASK_S if len(replicas) > 1 else None
        asked = [self._connect(service).info(patience_s) for service in replicas.values()]
        answers = await asyncio.gather(*asked, return_exceptions=True)
        infos: list[DetectorInfo] = []
        for address, answer in zip(replicas, answers, strict=True):
            if isinstance(answer, DetectorInfo):
                self._check(address, answer)
                infos.append(answer)
            elif isinstance(answer, StalError):
                errors[address] = answer
            else:
                raise answer
        if not infos:
            raise none_left(errors)
        for address, error in errors.items():
            if not isinstance(error, PASSING):
                raise _about(address, error)
            log.warning("The detector at %s is left out until it answers: %s", address, error)
        return infos[0]

    def _check(self, address: str, info: DetectorInfo) -> None:
        """The first answer says what all must run."""
        self._model = expected = self._model or info.model
        different = [
            f"{field} {value} instead of {expected[field]}"
            for field, value in info.model.items()
            if value != expected[field]
        ]
        if different:
            raise ConflictError(
                f"The detector at {address} runs another model than the other replicas, or than it ran before: "
                f"{'; '.join(different)}. Start all with the same weights and options, or name only those that fit."
            )

    async def detect(
        self, frames: AsyncIterator[tuple[str, bytes]]
    ) -> AsyncGenerator[tuple[str, FrameDetections | str]]:
        """Send (frame id, encoded image) pairs; yield (frame id, detections, or what is wrong with that image).

        Exactly one answer per frame, in any order and from any replica; ids must be unique among the frames. Frames
        that a broken connection leaves unanswered are sent again, to whichever replica is free. An exception of
        `frames` is raised after the answers to what came before.
        """
        config = self._config
        feed: Feed = FrameFeed(frames, window=config.window)
        pool = ReplicaPool(
            config.services,
            feed,
            connect=self._connect,
            disconnect=self._disconnect,
            check=self._check,
            retry=config.retry,
            resolve=self._resolve,
            resolve_every_s=config.resolve_every_s,
        )
        async with feed, pool, aclosing(feed.answers()) as answers:
            async for answer in answers:
                yield answer

    async def propose(
        self, dataset: str, split: str
    ) -> AsyncGenerator[ProposedSplit | tuple[KeyFrame, FrameDetections]]:
        """Let one service run a split below its data root; yields the head, then each key frame in order.

        A connection that breaks after the head is an error, since the service would start from the beginning.
        """
        if len(self._config.services) > 1:
            addresses = ", ".join(service.address for service in self._config.services)
            raise InputError(
                f"One service runs a split by itself, so give one address instead of {addresses}; to use several, let "
                "the client send the frames (without --server-side)."
            )
        connection = self._connect(self._config.services[0])
        delays, retryable = self._config.retry.delays(), True
        while True:
            try:
                async with aclosing(connection.propose(dataset, split)) as answers:
                    async for answer in answers:
                        retryable = False
                        yield _proposed(answer)
                return
            except grpc.aio.AioRpcError as error:
                retryable, final = retryable and is_retryable(error), connection.error_of(error)
            except DeadlineError as error:
                final = error
            delay = next(delays, None) if retryable else None
            if delay is None:
                raise final
            delay = pause_s(delay, final)
            log.warning("%s; trying again in %.1f s", final, delay)
            await asyncio.sleep(delay)


def _about(address: str, error: StalError) -> StalError:
    """The error with the address of its replica."""
    return error if address in str(error) else type(error)(f"{address}: {error}")


def _proposed(answer: pb.ProposeResponse) -> ProposedSplit | tuple[KeyFrame, FrameDetections]:
    if answer.HasField("header"):
        head = answer.header
        return ProposedSplit(dataset=head.dataset, split=head.split, key_frames=head.key_frames)
    item = answer.key_frame
    return KeyFrame(item.video, item.timestamp), from_message(item.detections)
