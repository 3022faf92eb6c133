"""What every call passes through on the server: token, readiness, error mapping, metrics.

Health checks pass untouched: probes carry no token and must get an answer before the service is ready.
"""

import asyncio
import hmac
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Any, TypeAlias

import grpc

from stal_data.errors import StalError
from svc_common.errors import status_of
from svc_common.metrics import Metrics

log = logging.getLogger(__name__)

# Quoted: only the type stubs make these classes generic.
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"


class CallInterceptor(grpc.aio.ServerInterceptor):
    """Guards and counts every call except health checks."""

    def __init__(self, metrics: Metrics, *, token: str | None, ready: Callable[[], bool]) -> None:
        self._metrics = metrics
        self._authorization = f"Bearer {token}".encode() if token is not None else None
        self._ready = ready

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable["Handler | None"]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> "Handler | None":
        method = handler_call_details.method
        if method.startswith("/grpc.health.v1.Health/"):
            return await continuation(handler_call_details)
        if not self._token_matches(handler_call_details):
            return _refuse(grpc.StatusCode.UNAUTHENTICATED, "the bearer token is missing or wrong (--token-file)")
        if not self._ready():
            return _refuse(grpc.StatusCode.UNAVAILABLE, "the service is starting or stopping")
        handler = await continuation(handler_call_details)
        return None if handler is None else self._wrap(handler, method)

    def _token_matches(self, details: grpc.HandlerCallDetails) -> bool:
        if self._authorization is None:
            return True
        sent = next((value for key, value in details.invocation_metadata if key == "authorization"), "")
        return hmac.compare_digest(sent.encode() if isinstance(sent, str) else sent, self._authorization)

    def _wrap(self, handler: Handler, method: str) -> Handler:
        kind = f"{_arity(handler.request_streaming)}_{_arity(handler.response_streaming)}"
        behaviour = getattr(handler, kind)

        async def stream(request: Any, context: Context) -> AsyncIterator[Any]:
            async with self._guard(method, context), aclosing(behaviour(request, context)) as responses:
                async for response in responses:
                    yield response

        async def single(request: Any, context: Context) -> Any:
            async with self._guard(method, context):
                return await behaviour(request, context)

        make = getattr(grpc, f"{kind}_rpc_method_handler")
        wrapped: Handler = make(
            stream if handler.response_streaming else single,
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )
        return wrapped

    @asynccontextmanager
    async def _guard(self, method: str, context: Context) -> AsyncIterator[None]:
        """Count the call and answer its exception with a status."""
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
        except StalError as error:
            code, details = status_of(error)
            await context.abort(code, details)
        except Exception:
            log.exception("%s failed", method)
            code = grpc.StatusCode.INTERNAL
            await context.abort(code, "internal error; the service's log has the traceback")
        finally:
            self._metrics.running.labels(method).dec()
            self._metrics.calls.labels(method, code.name).inc()
            self._metrics.seconds.labels(method).observe(time.perf_counter() - start)


def _arity(streaming: bool) -> str:
    return "stream" if streaming else "unary"


def _refuse(code: grpc.StatusCode, details: str) -> Handler:
    """A handler of any arity that aborts; as a stream it does not wait for a request first."""

    async def abort(request: Any, context: Context) -> None:  # noqa: ARG001
        await context.abort(code, details)

    return grpc.stream_stream_rpc_method_handler(abort)
