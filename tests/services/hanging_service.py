"""A service process that does not get on, for tests of signals: python -m tests.services.hanging_service STEP."""

import asyncio
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

from svc_common import server
from svc_common.config import ServerConfig
from tests.services.echo import EchoService


class Hanging(EchoService):
    """Hangs in a step: while it loads, in a thread as a model that is being read does; while it drains; for good in a
    thread of its work, once in the event loop's executor and once in one of its own; or while it stops."""

    def __init__(self, step: str) -> None:
        super().__init__()
        self._step = step

    async def start(self) -> None:
        if self._step == "load":
            print("loading", flush=True)
            await asyncio.to_thread(threading.Event().wait)

        if self._step == "work":
            asyncio.get_running_loop().run_in_executor(None, threading.Event().wait)
            self._executor = ThreadPoolExecutor(1, thread_name_prefix="model")
            self._executor.submit(threading.Event().wait)

    async def drain(self) -> None:
        if self._step == "drain":
            print("draining", flush=True)
            await asyncio.Event().wait()

    async def stop(self) -> None:
        if self._step == "stop":
            threading.Event().wait()  # the event loop, too


if __name__ == "__main__":
    server.FREEING_S = 0.5
    step, *options = sys.argv[1:]
    config = ServerConfig(grace_s=float(options[0])) if options else ServerConfig()
    asyncio.run(server.ServiceServer(config, [Hanging(step)], name="hanging").serve())
