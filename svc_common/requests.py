"""Requests that are no protobuf messages: grpc would call them a fault of the service, they are one of the client."""

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

from google.protobuf.message import DecodeError

from stal_data.errors import InputError


@dataclass(frozen=True)
class _Malformed:
    reason: str


def lenient(deserialize: Callable[[bytes], Any] | None) -> Callable[[bytes], Any]:
    """The deserializer, with a mark instead of an exception: what it raises never reaches the service's code."""

    def read(data: bytes) -> Any:
        assert deserialize is not None  # generated handlers have one
        try:
            return deserialize(data)
        except DecodeError as error:
            return _Malformed(str(error))

    return read


def checked(request: Any) -> Any:
    """The request, or each one of a stream of them; a malformed one raises InputError."""
    return _checked_stream(request) if hasattr(request, "__aiter__") else _checked_message(request)


def _checked_message(request: Any) -> Any:
    if isinstance(request, _Malformed):
        raise InputError(f"The request is malformed: {request.reason}. Was it made from another .proto file?")
    return request


async def _checked_stream(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
    async for request in requests:
        yield _checked_message(request)
