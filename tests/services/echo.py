"""A small service behind the common plumbing: its calls answer, fail in a chosen way, or wait."""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import grpc

from protos.generated import detector_pb2 as pb
from protos.generated import detector_pb2_grpc as rpc
from stal_data.errors import StalError
from svc_common.client import open_channel
from svc_common.config import ClientConfig, ServerConfig
from svc_common.server import ServiceServer


class EchoService(rpc.DetectorServicer):
    """Answers with the frame id; a frame called `fail` or a proposal raises `error`; `hang` waits for `release`."""

    full_name = "stal.detector.v2.Detector"

    def __init__(self, error: Exception | None = None, load: asyncio.Event | None = None) -> None:
        self.error, self.load = error, load
        self.release = asyncio.Event()
        self.entered = asyncio.Event()
        self.stopped = False
        self.time_remaining: float | None = None

    def register(self, server: grpc.aio.Server) -> None:
        rpc.add_DetectorServicer_to_server(self, server)

    async def start(self) -> None:
        if self.load is not None:
            await self.load.wait()

    async def drain(self) -> None:
        self.release.set()

    async def stop(self) -> None:
        self.stopped = True

    async def Detect(self, request_iterator, context):
        async for request in request_iterator:
            if request.frame_id == "fail":
                raise self.error
            yield pb.DetectResponse(frame_id=request.frame_id, error="x" * len(request.image))

    async def Propose(self, request, context):
        yield pb.ProposeResponse()
        raise self.error

    async def GetInfo(self, request, context):
        self.time_remaining = context.time_remaining()
        self.entered.set()
        if self.error is not None:
            raise self.error
        if self.time_remaining is not None:
            await self.release.wait()
        return pb.GetInfoResponse(name="echo")


class Working(EchoService):
    """Needs a task that ends when a test says so. Make it in the event loop."""

    def __init__(self) -> None:
        super().__init__()
        self.work: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def start(self) -> list[asyncio.Task[None]]:
        async def work() -> None:
            await self.work

        self.task = asyncio.create_task(work(), name="work")
        return [self.task]


@asynccontextmanager
async def serving(
    service: EchoService | None = None, **config: object
) -> AsyncIterator[tuple[ServiceServer, EchoService]]:
    """Run the service on a free loopback port."""
    service = service or EchoService()
    server = ServiceServer(ServerConfig(**{"grace_s": 5.0} | config), [service], name="echo")
    await server.start()
    try:
        yield server, service
    finally:
        await server.stop(0)


@contextmanager
def in_a_thread(service: EchoService, **config: object) -> Iterator[int]:
    """The service while a test runs a command, which has an event loop of its own; yields the port."""
    ready, done, port = threading.Event(), threading.Event(), 0

    async def run() -> None:
        nonlocal port
        async with serving(service, **config) as (server, _):
            port = server.port
            ready.set()
            await asyncio.to_thread(done.wait)

    thread = threading.Thread(target=lambda: asyncio.run(run()))
    thread.start()
    assert ready.wait(30)
    try:
        yield port
    finally:
        done.set()
        thread.join()


@asynccontextmanager
async def calling(port: int, **config: object) -> AsyncIterator["rpc.DetectorAsyncStub"]:
    """A stub for the service on the port."""
    async with open_channel(ClientConfig(address=f"127.0.0.1:{port}", **config)) as channel:
        yield rpc.DetectorStub(channel)


def stal_error(kind: type[StalError]) -> StalError:
    return kind("field 'x' has value 3; the rule is 4; give 4")
