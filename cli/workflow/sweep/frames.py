"""Messages over a pipe: four bytes with the length, then a protobuf."""

import asyncio
from typing import TypeVar

from google.protobuf.message import Message

M = TypeVar("M", bound=Message)


def framed(message: Message) -> bytes:
    content = message.SerializeToString()
    return len(content).to_bytes(4, "big") + content


async def read_frame(reader: asyncio.StreamReader, kind: type[M]) -> M | None:
    """Return the next message; None where the other process has closed its end, or has died."""
    try:
        size = int.from_bytes(await reader.readexactly(4), "big")
        return kind.FromString(await reader.readexactly(size))
    except (asyncio.IncompleteReadError, ConnectionError):
        return None
