"""A replica whose answers a test can hold back; real servers and connections, but no model."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from detector_svc.client.detector_client import DetectorClient, DetectorClientConfig
from detector_svc.detections import FrameDetections
from protos.generated import detector_pb2 as pb
from stal_data.errors import StalError
from svc_common.addresses import Resolver, resolve_name
from svc_common.client import RetryPolicy
from svc_common.config import ClientConfig, ServerConfig
from svc_common.errors import ServiceUnavailableError
from svc_common.server import ServiceServer
from tests.services.echo import EchoService

QUICK = RetryPolicy(retries=3, first_s=0.02, max_s=0.1)
TIMEOUT_S = 120


class ReplicaService(EchoService):
    """Finds one box in each image, as long as `answering` is set. `error` refuses to say what runs."""

    def __init__(self, *, error: StalError | None = None, **model: object) -> None:
        super().__init__(error)
        self.model = {"name": "person", "weights": "sha256:1", "image_height": 90, "confidence": 0.5} | model
        self.answering = asyncio.Event()
        self.answering.set()
        self.taken: list[str] = []
        self.answered: list[str] = []
        self.streams = 0
        self.draining = False

    async def start(self) -> None:
        self.draining = False

    async def drain(self) -> None:
        self.draining = True

    async def GetInfo(self, request, context):
        if self.error is not None:
            raise self.error
        return pb.GetInfoResponse(**self.model)

    async def Detect(self, request_iterator, context):
        self.streams += 1
        try:
            async for request in request_iterator:
                self.taken.append(request.frame_id)
                await self.answering.wait()
                yield pb.DetectResponse(
                    frame_id=request.frame_id, detections=pb.Detections(boxes=[0, 0, 0.5, 0.5], scores=[0.5])
                )
                self.answered.append(request.frame_id)
                if self.draining:
                    raise ServiceUnavailableError("the service is stopping")
        finally:
            self.streams -= 1


class Replica:
    """A service on a port of its own, which it keeps when it is started again."""

    def __init__(self, service: ReplicaService, **config: object) -> None:
        self.service, self._config = service, config
        self.port = 0
        self._server: ServiceServer | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    async def start(self) -> None:
        config = ServerConfig(port=self.port, grace_s=TIMEOUT_S, **self._config)
        self._server = ServiceServer(config, [self.service], name="detector")
        self.port = await self._server.start()

    async def stop(self, grace_s: float = 0) -> None:
        if self._server is not None:
            await self._server.stop(grace_s)
            self._server = None


@asynccontextmanager
async def replicas(*services: ReplicaService, **config: object) -> AsyncIterator[list[Replica]]:
    """Start them all; stop what is still there."""
    made = [Replica(service, **config) for service in services]
    try:
        for replica in made:
            await replica.start()
        yield made
    finally:
        for service in services:
            service.answering.set()
        for replica in made:
            await replica.stop()


def client_of(*addresses: str, resolve: Resolver = resolve_name, **options: object) -> DetectorClient:
    """Retries quickly, few frames in flight. Options with the names of ClientConfig's fields go there."""
    connection = {name: options.pop(name) for name in ("tls_ca", "server_name", "insecure") if name in options}
    services = tuple(ClientConfig(address=address, **connection) for address in addresses)
    defaults = {"services": services, "retry": QUICK, "window": 4, "resolve_every_s": 0.05}
    return DetectorClient(DetectorClientConfig(**defaults | options), resolve=resolve)


async def frames(count: int) -> AsyncIterator[tuple[str, bytes]]:
    for number in range(count):
        yield str(number), b"image"


async def detected(client: DetectorClient, count: int) -> list[str]:
    """The ids in the order of their answers."""
    async with asyncio.timeout(TIMEOUT_S):
        return [name async for name, found in client.detect(frames(count)) if isinstance(found, FrameDetections)]


def once_each(count: int) -> list[str]:
    return sorted(map(str, range(count)))


async def until(condition) -> None:
    """Wait for something that another task brings about."""
    async with asyncio.timeout(TIMEOUT_S):
        while not condition():
            await asyncio.sleep(0.01)
