"""Every call of both services with messages that nobody should send: each gets a status, and the service goes on.

`-m soak` runs the same for minutes.
"""

import asyncio
import gc
import os
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import replace

import grpc
import pytest
from google.protobuf.descriptor import MethodDescriptor
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cache.store import Store
from protos.generated import detector_pb2, recognizer_pb2
from recognizer_svc.service.server import RecognizerConfig, RecognizerService
from svc_common.config import ServerConfig
from svc_common.metrics import Metrics
from svc_common.server import ServiceServer
from tests.detector.samples import make_server, save_tiny_weights, write_dataset
from tests.services.conftest import Trained
from tests.services.hostile import Caller, Footprint, is_orderly, raw_or_made

DETECTOR = tuple(detector_pb2.DESCRIPTOR.services_by_name["Detector"].methods)
RECOGNIZER = tuple(recognizer_pb2.DESCRIPTOR.services_by_name["Recognizer"].methods)
PLUMBING = (
    *health_pb2.DESCRIPTOR.services_by_name["Health"].methods,
    *reflection_pb2.DESCRIPTOR.services_by_name["ServerReflection"].methods,
)
EXAMPLES = 40
LONG_EXAMPLES = 3000
GROWTH = {"threads": 8, "descriptors": 8}
"""Far below what a leak of one thread or file a call would make."""
LARGE, LARGE_COUNT = 4 << 20, 8
"""Bytes in a large message, and how many are sent."""


@contextmanager
def in_thread(make: Callable[[], ServiceServer]) -> Iterator[ServiceServer]:
    """A running server on an event loop of its own, so that plain blocking calls may be made."""
    started: Future[ServiceServer] = Future()
    loop = asyncio.new_event_loop()

    def run() -> None:
        asyncio.set_event_loop(loop)
        server = make()
        try:
            loop.run_until_complete(server.start())
        except BaseException as error:
            started.set_exception(error)
            raise
        started.set_result(server)
        loop.run_forever()
        loop.run_until_complete(server.stop(0))
        loop.close()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield started.result(120)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(60)


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Caller]:
    folder = tmp_path_factory.mktemp("detector")
    weights, data = save_tiny_weights(folder / "tiny.pt"), folder / "data"
    write_dataset(data / "toy", videos=1, seconds=2)
    with (
        in_thread(lambda: make_server(weights, data_root=data)) as server,
        grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel,
    ):
        yield Caller(channel)


@pytest.fixture
def recognizer(trained: Trained) -> Iterator[Caller]:
    with grpc.insecure_channel(trained.service.address) as channel:
        yield Caller(channel)


@pytest.fixture(scope="module")
def recognizer_here(toy: Store) -> Iterator[Caller]:
    """Served by this process."""

    def make() -> ServiceServer:
        metrics = Metrics()
        service = RecognizerService(RecognizerConfig(store=toy), metrics)
        return ServiceServer(ServerConfig(port=0, metrics_port=0), [service], name="recognizer", metrics=metrics)

    with in_thread(make) as server, grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        yield Caller(channel)


def send(caller: Caller, method: MethodDescriptor, examples: int) -> None:
    """Send so many streams of requests, which may go on where an earlier one has been found wanting."""

    @settings(
        max_examples=examples,
        database=None,
        derandomize=examples <= EXAMPLES,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.lists(raw_or_made(method), min_size=1, max_size=4 if method.client_streaming else 1))
    def run(requests: list[bytes]) -> None:
        code, text = caller.call(method, requests)
        assert is_orderly(code), (code, text)

    run()


def check(
    caller: Caller, pid: int, methods: tuple[MethodDescriptor, ...], method: MethodDescriptor, examples: int
) -> None:
    send(caller, method, max(examples // 4, 10))  # caches fill, pools start
    before = Footprint.of(pid)
    send(caller, method, examples)
    for what, grown in Footprint.of(pid).growth(before):
        assert grown <= GROWTH[what], (what, grown)
    still_serves(caller, methods)


def long_field(number: int, length: int) -> bytes:
    """A message with one field of so many bytes: text, bytes or a message, as the receiver's .proto file has it."""
    header, rest = bytearray([number << 3 | 2]), length
    while rest > 127:
        header.append(rest & 127 | 128)
        rest >>= 7
    return bytes([*header, rest]) + b" " * length


def keeps_nothing(caller: Caller, method: MethodDescriptor) -> None:
    """Send large messages to a service in this process: of all of them, Python may soon hold less than two.

    The garbage collector rests, so that a message in a cycle of an error and its traceback counts as kept.
    """
    large = long_field(1, LARGE)
    caller.call(method, [large])
    gc.collect()
    gc.disable()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for _ in range(LARGE_COUNT):
            caller.call(method, [large])
        patience = time.monotonic() + 60  # a call's last steps may come after its client's answer
        while (kept := tracemalloc.get_traced_memory()[0] - before) >= 2 * LARGE and time.monotonic() < patience:
            time.sleep(0.05)
    finally:
        tracemalloc.stop()
        gc.enable()
    assert kept < 2 * LARGE


def still_serves(caller: Caller, methods: tuple[MethodDescriptor, ...]) -> None:
    name = "GetInfo" if methods is DETECTOR else "ListModels"
    (method,) = [method for method in methods if method.name == name]
    assert caller.call(method, [b""]) == (grpc.StatusCode.OK, "")


@pytest.mark.parametrize("method", DETECTOR, ids=lambda method: method.name)
def test_the_detector_answers_anything_and_goes_on(detector: Caller, method: MethodDescriptor) -> None:
    check(detector, os.getpid(), DETECTOR, method, EXAMPLES)


@pytest.mark.parametrize("method", PLUMBING, ids=lambda method: method.name)
def test_health_checks_and_reflection_answer_anything(
    detector: Caller, method: MethodDescriptor, caplog: pytest.LogCaptureFixture
) -> None:
    once = replace(detector, most_answers=1) if method.name == "Watch" else detector
    check(once, os.getpid(), DETECTOR, method, EXAMPLES)
    assert not [record for record in caplog.records if record.exc_info]


@pytest.mark.parametrize("name", ["Propose", "GetInfo", "Check"])
def test_the_detector_keeps_nothing_of_large_messages(detector: Caller, name: str) -> None:
    """Detect is not among them: grpc.aio keeps the last message of a stream until the garbage collector comes by."""
    (method,) = [method for method in (*DETECTOR, *PLUMBING) if method.name == name]
    keeps_nothing(detector, method)


@pytest.mark.parametrize("method", RECOGNIZER, ids=lambda method: method.name)
def test_the_recognizer_keeps_nothing_of_large_messages(recognizer_here: Caller, method: MethodDescriptor) -> None:
    keeps_nothing(recognizer_here, method)


@pytest.mark.parametrize("method", RECOGNIZER, ids=lambda method: method.name)
def test_the_recognizer_answers_anything_and_goes_on(
    recognizer: Caller, trained: Trained, method: MethodDescriptor
) -> None:
    assert trained.service.process is not None
    logged = len(trained.service.log)
    check(recognizer, trained.service.process.pid, RECOGNIZER, method, EXAMPLES)
    assert "Traceback" not in trained.service.log[logged:]


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("method", DETECTOR, ids=lambda method: method.name)
def test_the_detector_for_long(detector: Caller, method: MethodDescriptor) -> None:
    check(detector, os.getpid(), DETECTOR, method, LONG_EXAMPLES)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("method", RECOGNIZER, ids=lambda method: method.name)
def test_the_recognizer_for_long(recognizer: Caller, trained: Trained, method: MethodDescriptor) -> None:
    assert trained.service.process is not None
    check(recognizer, trained.service.process.pid, RECOGNIZER, method, LONG_EXAMPLES)
