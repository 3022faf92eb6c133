"""Messages beyond --max-message-mb: what they cost the service before they are refused."""

import re
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from tests.services.conftest import Trained

LIMIT_MB = 32
PATHS = ("/grpc.health.v1.Health/Check", "/stal.recognizer.v2.Recognizer/ListModels")


@pytest.fixture
def channel(trained: Trained) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(trained.service.address, [("grpc.max_send_message_length", -1)]) as channel:
        yield channel


def refusal(channel: grpc.Channel, path: str, message: bytes, compression: grpc.Compression) -> str:
    with pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary(path)(message, timeout=60, compression=compression)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    return caught.value.details()


def peak_mb(pid: int) -> int:
    """The most memory that the process has held so far."""
    (kilobytes,) = re.findall(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return int(kilobytes) >> 10


def forget_peak(pid: int) -> None:
    Path(f"/proc/{pid}/clear_refs").write_text("5")


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    ("size_mb", "compression", "allowed_mb"),
    [(96, grpc.Compression.NoCompression, LIMIT_MB), (256, grpc.Compression.Gzip, 4 * LIMIT_MB)],
    ids=["plain", "a gzip bomb"],
)
def test_a_message_over_the_limit_is_never_held(
    trained: Trained, channel: grpc.Channel, path: str, size_mb: int, compression: grpc.Compression, allowed_mb: int
) -> None:
    assert trained.service.process is not None
    pid = trained.service.process.pid
    forget_peak(pid)
    before = peak_mb(pid)
    assert "larger than max" in refusal(channel, path, bytes(size_mb << 20), compression)
    assert peak_mb(pid) - before < allowed_mb
