"""Client side: the channel, and retries with backoff."""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import grpc

from stal_data.errors import StalError
from svc_common.config import ClientConfig, read_tokens
from svc_common.errors import BusyError, DeadlineError, error_of, is_broken_write, is_too_large
from svc_common.fair_queue import Priority
from svc_common.logs import REQUEST_ID_HEADER, outgoing_request_id
from svc_common.options import channel_options
from svc_common.priorities import PRIORITY_HEADER
from svc_common.reloaded import Reloaded
from svc_common.secret_files import warn_of_readable
from svc_common.version import API_VERSION, VERSION_HEADER

T = TypeVar("T")
_RETRIED = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED)


@dataclass(frozen=True, kw_only=True)
class RetryPolicy:
    """Exponential backoff with full jitter."""

    retries: int = 5
    """Attempts after the first; 0 means one attempt only."""
    first_s: float = 0.2
    max_s: float = 5.0

    def delays(self) -> Iterator[float]:
        """Seconds to wait before each retry."""
        for attempt in range(self.retries):
            # Never less than half, so that all retries together outlast a service's restart.
            yield min(self.max_s, self.first_s * 2**attempt) * random.uniform(0.5, 1.0)


def pause_s(delay_s: float, error: StalError) -> float:
    """How long to wait before the next attempt: never less than a busy service asked for.

    Somewhat more, each client another time: those refused together must not all come back together.
    """
    if not isinstance(error, BusyError):
        return delay_s
    return max(delay_s, error.retry_after_s * random.uniform(1.0, 1.5))


def is_retryable(error: grpc.aio.AioRpcError) -> bool:
    """True when the same call may succeed later: nobody answers, the queue is full, or the stream broke in a write."""
    return is_broken_write(error) or (error.code() in _RETRIED and not is_too_large(error))


class _Token:
    """Sends the bearer token; call credentials would refuse to do so over a plain loopback connection."""

    def __init__(self, tokens: Reloaded[tuple[str, ...]]) -> None:
        self._tokens = tokens

    async def _intercept(self, continuation: Any, details: grpc.aio.ClientCallDetails, request: Any) -> Any:
        metadata = grpc.aio.Metadata(*(details.metadata or ()))
        metadata.add("authorization", f"Bearer {self._tokens.get()[0]}")
        call = grpc.aio.ClientCallDetails(
            details.method, details.timeout, metadata, details.credentials, details.wait_for_ready
        )
        return await continuation(call, request)


# One class per kind of call: a channel files an interceptor under the first kind that it is an instance of.
class _UnaryUnaryToken(_Token, grpc.aio.UnaryUnaryClientInterceptor):
    intercept_unary_unary: Any = _Token._intercept


class _UnaryStreamToken(_Token, grpc.aio.UnaryStreamClientInterceptor):
    intercept_unary_stream: Any = _Token._intercept


class _StreamUnaryToken(_Token, grpc.aio.StreamUnaryClientInterceptor):
    intercept_stream_unary: Any = _Token._intercept


class _StreamStreamToken(_Token, grpc.aio.StreamStreamClientInterceptor):
    intercept_stream_stream: Any = _Token._intercept


_TOKEN_INTERCEPTORS = (_UnaryUnaryToken, _UnaryStreamToken, _StreamUnaryToken, _StreamStreamToken)


def open_channel(config: ClientConfig) -> grpc.aio.Channel:
    """A channel to the service, to be closed by the caller. Nothing connects before the first call."""
    warn_of_readable(token_file=config.token_file, tls_key=config.tls_key)
    interceptors = []
    if (file := config.token_file) is not None:
        tokens = Reloaded([file], lambda: read_tokens(file))
        interceptors = [kind(tokens) for kind in _TOKEN_INTERCEPTORS]
    options = channel_options(config)
    if config.tls_ca is None:
        return grpc.aio.insecure_channel(config.address, options=options, interceptors=interceptors)
    credentials = grpc.ssl_channel_credentials(
        root_certificates=config.tls_ca.read_bytes(),
        private_key=config.tls_key.read_bytes() if config.tls_key else None,
        certificate_chain=config.tls_cert.read_bytes() if config.tls_cert else None,
    )
    return grpc.aio.secure_channel(config.address, credentials, options=options, interceptors=interceptors)


def call_metadata(priority: Priority = "batch") -> tuple[tuple[str, str], ...]:
    """What every call sends along: the id under which services log it, the interface's version, and its priority."""
    return (
        (REQUEST_ID_HEADER, outgoing_request_id()),
        (VERSION_HEADER, API_VERSION),
        (PRIORITY_HEADER, priority),
    )


async def call_with_retries(
    call: Callable[[], Awaitable[T]], *, service: str, address: str, policy: RetryPolicy | None = None
) -> T:
    """Run a call that may be repeated without harm; raise the project's error when the last attempt fails."""
    delays = (policy or RetryPolicy()).delays()
    while True:
        try:
            return await call()
        except grpc.aio.AioRpcError as error:
            found = error_of(error, service=service, address=address)
            delay = next(delays, None) if is_retryable(error) else None
            if delay is None:
                raise found from error
        await asyncio.sleep(pause_s(delay, found))


async def next_answer(
    answers: AsyncIterator[T], *, timeout_s: float, waiting_s: Callable[[], float], service: str, address: str
) -> T | None:
    """Return the next message of a call, None at its end; DeadlineError where one has been due for too long.

    waiting_s: how long one has been due; it is asked each time that `timeout_s` has passed.
    """
    reading = asyncio.ensure_future(anext(answers, None))
    try:
        while not (await asyncio.wait({reading}, timeout=timeout_s))[0]:
            if waiting_s() >= timeout_s:
                raise DeadlineError(
                    f"The {service} service at {address} sent no answer for {timeout_s:g} s. Is it overloaded? Allow "
                    "more time (--timeout-s of 'stal-cli detect')."
                )
        return reading.result()
    finally:
        reading.cancel()
