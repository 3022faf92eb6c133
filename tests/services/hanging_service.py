"""A service process that does not get on, for tests of signals: python -m tests.services.hanging_service load|drain."""

import asyncio
import sys
import threading

from svc_common.config import ServerConfig
from svc_common.server import ServiceServer
from tests.services.echo import EchoService


class Hanging(EchoService):
    """Hangs while it loads, in a thread as a model that is being read does, or while it drains."""

    def __init__(self, step: str) -> None:
        super().__init__()
        self._step = step

    async def start(self) -> None:
        if self._step == "load":
            print("loading", flush=True)
            await asyncio.to_thread(threading.Event().wait)

    async def drain(self) -> None:
        if self._step == "drain":
            print("draining", flush=True)
            await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(ServiceServer(ServerConfig(), [Hanging(sys.argv[1])], name="hanging").serve())
