"""What every call passes through on the server: token, version, readiness, bounds, error mapping, metrics, log lines.

Health checks pass, if they are messages at all: probes carry neither token nor version and must get an answer before
the service is ready. They have a bound of their own, see health.py.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Any, TypeAlias

import grpc

from stal_data.errors import StalError
from svc_common.calls_per_client import CallsPerClient, Context
from svc_common.errors import AccessError, DeadlineError, ServiceUnavailableError, status_of, trailers_of
from svc_common.logs import REQUEST_ID_HEADER, checked_request_id, log_context
from svc_common.metrics import Metrics
from svc_common.refusals import RefusalLog
from svc_common.requests import checked, lenient
from svc_common.tokens import TokenCheck
from svc_common.version import API_VERSION, VERSION_HEADER, check_client

log = logging.getLogger(__name__)

# Quoted: only the type stubs make this class generic.
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"

_VERSION = ((VERSION_HEADER, API_VERSION),)
CALLS_PER_CLIENT = 128
"""Calls in progress of one address, so that one client cannot take all places."""
READ_TIMEOUT_S = 300.0
"""A client that takes no answer for so long loses its stream."""


class CallInterceptor(grpc.aio.ServerInterceptor):
    """Guards and counts every call except health checks."""

    def __init__(
        self,
        metrics: Metrics,
        *,
        tokens: TokenCheck,
        unready: Callable[[], str | None],
        calls_per_client: int = CALLS_PER_CLIENT,
        read_timeout_s: float = READ_TIMEOUT_S,
    ) -> None:
        """unready: why the service takes no calls; None when it does."""
        self._metrics, self._tokens, self._unready = metrics, tokens, unready
        self._refusals = RefusalLog()
        self._places, self._read_timeout_s = CallsPerClient(calls_per_client, "calls"), read_timeout_s

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable["Handler | None"]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> "Handler | None":
        method = handler_call_details.method
        if method.startswith("/grpc.health.v1.Health/"):
            probe = await continuation(handler_call_details)
            return None if probe is None else _of_messages(probe)
        request_id = checked_request_id(_header(handler_call_details, REQUEST_ID_HEADER) or "")
        handler = await continuation(handler_call_details)
        try:
            self._check(handler_call_details)
        except StalError as error:
            # A client without a token must not make up labels of metrics.
            return self._refuse(error, "unknown" if handler is None else method, request_id)
        return None if handler is None else self._wrap(handler, method, request_id)

    def _check(self, details: grpc.HandlerCallDetails) -> None:
        if not self._tokens.accepts(_header(details, "authorization") or ""):
            raise AccessError("the bearer token is missing or wrong (--token-file)")
        if (reason := self._unready()) is not None:
            raise ServiceUnavailableError(reason)
        check_client(_header(details, VERSION_HEADER))

    def _refuse(self, error: StalError, method: str, request_id: str) -> Handler:
        """A handler of any arity that aborts; as a stream it does not wait for a request first."""
        code, reason = status_of(error)

        async def abort(request: Any, context: Context) -> None:  # noqa: ARG001
            self._metrics.calls.labels(method, code.name).inc()
            with log_context(request_id=request_id):
                self._refusals.note(code, reason, method=method, peer=context.peer())
            await context.abort(code, reason, _VERSION)

        return grpc.stream_stream_rpc_method_handler(abort)

    def _wrap(self, handler: Handler, method: str, request_id: str) -> Handler:
        kind = f"{_arity(handler.request_streaming)}_{_arity(handler.response_streaming)}"
        behaviour = getattr(handler, kind)

        # Neither keeps the request in its frame, see _alone.
        async def stream(request: Any, context: Context) -> None:
            held, guard = [request], self._guard(method, request_id, context)
            del request
            try:
                async with guard, aclosing(behaviour(checked(held.pop()), context)) as responses:
                    async for response in responses:
                        await self._write(context, response)
            except grpc.aio.AbortError as abort:
                raise _alone(abort) from None

        async def single(request: Any, context: Context) -> Any:
            held = [request]
            del request
            try:
                async with self._guard(method, request_id, context):
                    return await behaviour(checked(held.pop()), context)
            except grpc.aio.AbortError as abort:
                raise _alone(abort) from None

        make = getattr(grpc, f"{kind}_rpc_method_handler")
        wrapped: Handler = make(
            stream if handler.response_streaming else single,
            request_deserializer=lenient(handler.request_deserializer),
            response_serializer=handler.response_serializer,
        )
        return wrapped

    async def _write(self, context: Context, response: Any) -> None:
        try:
            async with asyncio.timeout(self._read_timeout_s):
                await context.write(response)
        except TimeoutError:
            raise DeadlineError(f"the client took no answer for {self._read_timeout_s:g} s") from None

    @asynccontextmanager
    async def _guard(self, method: str, request_id: str, context: Context) -> AsyncIterator[None]:
        context.set_trailing_metadata(_VERSION)
        with log_context(request_id=request_id):
            async with self._counted(method, context):
                with self._places.one(context):
                    yield

    @asynccontextmanager
    async def _counted(self, method: str, context: Context) -> AsyncIterator[None]:
        start, code = time.perf_counter(), grpc.StatusCode.OK
        self._metrics.running.labels(method).inc()
        try:
            yield
        except grpc.aio.AbortError:
            code = grpc.StatusCode.ABORTED
            raise
        except (asyncio.CancelledError, GeneratorExit):
            code = grpc.StatusCode.CANCELLED
            raise
        except Exception as error:
            if not isinstance(error, StalError):
                log.exception("%s failed", method)
            code, details = status_of(error)
            await context.abort(code, details, (*_VERSION, *trailers_of(error)))
        finally:
            self._metrics.running.labels(method).dec()
            self._metrics.calls.labels(method, code.name).inc()
            seconds = time.perf_counter() - start
            self._metrics.seconds.labels(method).observe(seconds)
            fields = {"method": method, "code": code.name, "seconds": round(seconds, 6)}
            log.info("call finished", extra={"fields": fields})


def _of_messages(probe: Handler) -> Handler:
    """The handler of a health check, whose errors get their status; grpc would log a traceback for no message."""
    kind = f"unary_{_arity(probe.response_streaming)}"
    behaviour = getattr(probe, kind)

    async def answer(request: Any, context: Context) -> Any:
        held = [request]
        del request
        try:
            try:
                return await behaviour(checked(held.pop()), context)
            except StalError as error:
                await context.abort(*status_of(error))
        except grpc.aio.AbortError as abort:
            raise _alone(abort) from None

    wrapped: Handler = getattr(grpc, f"{kind}_rpc_method_handler")(
        answer,
        request_deserializer=lenient(probe.request_deserializer),
        response_serializer=probe.response_serializer,
    )
    return wrapped


def _alone(abort: grpc.aio.AbortError) -> grpc.aio.AbortError:
    """The abort without the error behind it and the frames that both went through.

    grpc.aio keeps it in a cycle until the garbage collector comes by, which in a process with torch is after hundreds
    of calls; frames hold their requests and errors quote them, each as large as a message may be.
    """
    abort.__context__ = None
    return abort.with_traceback(None)


def _header(details: grpc.HandlerCallDetails, name: str) -> str | None:
    sent = next((value for key, value in details.invocation_metadata if key == name), None)
    return sent.decode(errors="replace") if isinstance(sent, bytes) else sent


def _arity(streaming: bool) -> str:
    return "stream" if streaming else "unary"
