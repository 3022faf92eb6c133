"""The one place that turns an error into a gRPC status and a gRPC status into an error."""

import os
import re
from urllib.parse import quote

import grpc

from stal_data.errors import ConflictError, InputError, NotFoundError, StalError
from svc_common.proxies import through_proxy

# gRPC carries the text percent-encoded in a header; headers above 8 KB are refused.
MAX_DETAILS_BYTES = 6000
RETRY_TRAILER = "grpc-retry-pushback-ms"
"""gRPC's own name for it: clients of other makes that have a retry policy obey it without knowing this service."""
_LONGEST_RETRY_S = 60.0
_UNRESOLVED = re.compile(r"(errors resolving|DNS resolution failed) ")
"""How gRPC says that a name has no address."""


class ServiceError(StalError):
    """A service answered with an error; `code` is its gRPC status."""

    code = grpc.StatusCode.UNKNOWN

    def __init__(self, text: str, code: grpc.StatusCode | None = None) -> None:
        super().__init__(text)
        if code is not None:
            self.code = code


class ServiceUnavailableError(ServiceError):
    """Nothing answers at the address, or the service is starting or stopping."""

    code = grpc.StatusCode.UNAVAILABLE


class BusyError(ServiceError):
    """The service's queue is full. retry_after_s: when the service expects to have room again."""

    code = grpc.StatusCode.RESOURCE_EXHAUSTED

    def __init__(self, text: str, *, retry_after_s: float = 1.0) -> None:
        super().__init__(text)
        self.retry_after_s = retry_after_s


class DeadlineError(ServiceError):
    """The answer did not come in time."""

    code = grpc.StatusCode.DEADLINE_EXCEEDED


class AccessError(ServiceError):
    """The token or the certificate is missing or wrong."""

    code = grpc.StatusCode.UNAUTHENTICATED


_STATUS_OF_ERROR: tuple[tuple[type[StalError], grpc.StatusCode], ...] = (
    (InputError, grpc.StatusCode.INVALID_ARGUMENT),
    (NotFoundError, grpc.StatusCode.NOT_FOUND),
    (ConflictError, grpc.StatusCode.FAILED_PRECONDITION),
)
_ERROR_OF_STATUS: dict[grpc.StatusCode, type[StalError]] = {
    **{code: error for error, code in _STATUS_OF_ERROR},
    grpc.StatusCode.ALREADY_EXISTS: ConflictError,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineError,
    grpc.StatusCode.PERMISSION_DENIED: AccessError,
    grpc.StatusCode.UNAUTHENTICATED: AccessError,
}


def status_of(error: Exception) -> tuple[grpc.StatusCode, str]:
    """Status and details that carry an error to the client: one that a user can cause with its text, one of the system
    with its file and reason, any other without either."""
    if isinstance(error, OSError) and error.errno is not None:
        # PERMISSION_DENIED is about the client's rights, and after RESOURCE_EXHAUSTED clients try again.
        return grpc.StatusCode.FAILED_PRECONDITION, shorten(_system_error(error))
    if not isinstance(error, StalError):
        return grpc.StatusCode.INTERNAL, "internal error; the service's log has the traceback"
    if isinstance(error, ServiceError):
        code = error.code
    else:
        code = next((code for kind, code in _STATUS_OF_ERROR if isinstance(error, kind)), grpc.StatusCode.UNKNOWN)
    return code, shorten(str(error))


def _system_error(error: OSError) -> str:
    files = [os.fsdecode(name) for name in (error.filename, error.filename2) if isinstance(name, str | bytes)]
    where = " and ".join(f"'{name}'" for name in files)
    return f"{where}{': ' if where else ''}{error.strerror}, on the service's machine."


def trailers_of(error: Exception) -> tuple[tuple[str, str], ...]:
    """What a client is told beside the status: when to come back to a busy service."""
    if not isinstance(error, BusyError):
        return ()
    return ((RETRY_TRAILER, str(max(1, round(1000 * error.retry_after_s)))),)


def _retry_after_s(error: grpc.aio.AioRpcError) -> float:
    """What the service asked for, within reason; BusyError's default where it said nothing."""
    stated = dict(error.trailing_metadata() or ()).get(RETRY_TRAILER, "")
    milliseconds = str(stated)
    return min(int(milliseconds) / 1000, _LONGEST_RETRY_S) if milliseconds.isdecimal() else 1.0


def shorten(text: str) -> str:
    """Cut a text so that it fits into the status header."""
    kept = text[:MAX_DETAILS_BYTES]  # first: a client may have sent a long text that is quoted here
    if kept == text and len(quote(text)) <= MAX_DETAILS_BYTES:
        return text
    while len(quote(kept)) > MAX_DETAILS_BYTES:
        kept = kept[: len(kept) * 9 // 10]
    return f"{kept} ..."


def error_of(error: grpc.aio.AioRpcError, *, service: str, address: str) -> StalError:
    """The project's error for a failed call. service: `detector` or `recognizer`, as in `stal-cli serve`."""
    code, details = error.code(), error.details() or ""
    if code is grpc.StatusCode.UNAVAILABLE and _UNRESOLVED.search(details):
        return ServiceUnavailableError(
            f"The address {address} of the {service} service does not resolve{through_proxy(address)} ({details}). "
            "Correct the name, or give an IP address."
        )
    if code is grpc.StatusCode.UNAVAILABLE or is_broken_write(error):
        return ServiceUnavailableError(
            f"The {service} service at {address} does not answer{through_proxy(address)} ({details}). "
            f"Is it running? Start it with: stal-cli serve {service} --port {address.rpartition(':')[2]} ..."
        )
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        if is_too_large(error):
            return InputError(
                f"A message to or from the {service} service at {address} breaks the size limit ({details}). "
                "Raise --max-message-mb on both sides, or send smaller images."
            )
        text = f"The {service} service at {address} is busy ({details}). Try again later."
        return BusyError(text, retry_after_s=_retry_after_s(error))
    if code is grpc.StatusCode.UNIMPLEMENTED:
        return ServiceError(
            f"{address} answers, but not as a {service} service of this version ({details}). Give --{service} the "
            f"address of what 'stal-cli serve {service}' started, or upgrade that service.",
            code,
        )
    kind = _ERROR_OF_STATUS.get(code)
    if kind is None:
        return ServiceError(f"The {service} service at {address} failed: {code.name}: {details}", code)
    if issubclass(kind, ServiceError):
        return kind(f"The {service} service at {address} answered{through_proxy(address)} {code.name}: {details}", code)
    return kind(details)


def is_broken_write(error: grpc.aio.AioRpcError) -> bool:
    """True when a stream ended while this side was writing; grpc.aio then makes up a status and loses the real one."""
    return error.code() is grpc.StatusCode.INTERNAL and "execute_batch" in (error.debug_error_string() or "")


def is_too_large(error: grpc.aio.AioRpcError) -> bool:
    """True for the size limit, which shares its status with a full queue but does not go away by waiting."""
    return error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED and "larger than max" in (error.details() or "")
