"""A client process that loads a running detector service, for `benchmarks.detector_load`; prints a JSON object.

Closed loop: every stream always has `--window` frames under way, as `stal-cli detect` has. Open loop (`--rate`): frames
come at that rate however long the answers take. A frame's latency is from handing it to the client to its answer,
with every refusal, pause and repetition in between.
"""

import argparse
import asyncio
import json
import logging
import os
import resource
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from benchmarks.detector_load_local import read_images
from detector_svc.client.detector_client import DetectorClient, DetectorClientConfig
from svc_common.client import RetryPolicy
from svc_common.config import ClientConfig

TICKS = os.sysconf("SC_CLK_TCK")
PATIENT = RetryPolicy(retries=1000)


def cpu_s(pid: int) -> float:
    """Processor seconds of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def rss_mb(pid: int) -> float:
    """Resident memory of a process in MB."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) / 1024


@dataclass
class Load:
    """What all streams together have seen."""

    images: list[bytes]
    seconds: float
    rate: float | None
    start: float = field(default_factory=time.perf_counter)
    answers: list[tuple[float, float]] = field(default_factory=list)
    """When each came, and its latency; both in seconds."""
    sent: int = 0

    @property
    def over(self) -> bool:
        return time.perf_counter() - self.start >= self.seconds

    async def frames(self, stream: int, begun: dict[str, float]) -> AsyncIterator[tuple[str, bytes]]:
        due = time.perf_counter()
        while not self.over:
            if self.rate is not None:
                due += 1 / self.rate
                await asyncio.sleep(max(0.0, due - time.perf_counter()))
            frame_id = f"{stream}-{self.sent}"
            begun[frame_id] = time.perf_counter() if self.rate is None else due
            self.sent += 1
            yield frame_id, self.images[self.sent % len(self.images)]

    async def run_stream(self, client: DetectorClient, stream: int) -> None:
        begun: dict[str, float] = {}
        async for frame_id, answer in client.detect(self.frames(stream, begun)):
            assert not isinstance(answer, str), answer
            now = time.perf_counter()
            self.answers.append((now - self.start, now - begun.pop(frame_id)))


async def run(options: argparse.Namespace) -> dict[str, object]:
    load = Load(images=read_images(options.images), seconds=options.warm_up + options.seconds, rate=options.rate)
    logging.disable(logging.WARNING)  # the client's word on each refusal
    config = DetectorClientConfig(
        services=(ClientConfig(address=options.address),), window=options.window, retry=PATIENT, timeout_s=300
    )
    client = DetectorClient(config)
    async with asyncio.TaskGroup() as group:
        for stream in range(options.streams):
            group.create_task(load.run_stream(client, stream))
        await asyncio.sleep(options.warm_up)
        begin, server, own = time.perf_counter() - load.start, cpu_s(options.server_pid), time.process_time()
        memory = [rss_mb(options.server_pid)]
        while not load.over:
            await asyncio.sleep(1)
            memory.append(rss_mb(options.server_pid))
        end = time.perf_counter() - load.start
        server, own = cpu_s(options.server_pid) - server, time.process_time() - own
    latencies_ms = [1e3 * latency for when, latency in load.answers if begin <= when < end]
    return {
        "images": len(latencies_ms),
        "seconds": end - begin,
        "latency_ms": np.percentile(latencies_ms, [50, 90, 99, 100]).tolist(),
        "server_cpu_s": server,
        "client_cpu_s": own,
        "server_rss_mb": memory,
        "client_peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "lost": load.sent - len(load.answers),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--address", required=True)
    parser.add_argument("--server-pid", type=int, required=True, help="Whose processor time and memory to watch.")
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--streams", type=int, default=1)
    parser.add_argument("--window", type=int, default=24, help="Frames under way in a stream.")
    parser.add_argument("--rate", type=float, help="Frames a second of each stream; default: closed loop.")
    parser.add_argument("--warm-up", type=float, default=2.0, help="Seconds that do not count.")
    parser.add_argument("--seconds", type=float, default=10)
    print(json.dumps(asyncio.run(run(parser.parse_args()))))


if __name__ == "__main__":
    main()
