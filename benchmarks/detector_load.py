"""Load the detector service at and beyond capacity; print Markdown.

    python -m benchmarks.detector_load --overload-minutes 3

One `stal-cli serve detector` process is pinned to one core, the client process to another. The same YOLO without a
service, fed the same encoded bytes in the same batch sizes, is pinned to the server's core; both are measured in turns
in this run. Images are key frames of the synthetic data set; without --weights YOLO has seeded random ones.
"""

import argparse
import os
import platform
import shlex
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.detector_load_processes import WINDOW, Inputs, Pinned, make_inputs, make_weights
from benchmarks.giant_cpu import processor

OVERLOAD_STREAMS = 16


@dataclass
class Results:
    """What the children printed; lists have one entry a round."""

    local: list[dict[str, Any]]
    service: list[dict[str, Any]]
    loads: list[tuple[str, dict[str, Any]]]
    published: dict[str, Any]


def rate(results: Sequence[dict[str, Any]]) -> float:
    """Images a second."""
    return sum(item["images"] for item in results) / sum(item["seconds"] for item in results)


def cpu_ms(results: Sequence[dict[str, Any]], name: str) -> float:
    """Processor time an image."""
    return 1e3 * sum(item[name] for item in results) / sum(item["images"] for item in results)


def measure(options: argparse.Namespace, pinned: Pinned) -> Results:
    results = Results(local=[], service=[], loads=[], published={})
    with pinned.serving() as server:
        for number in range(options.rounds):
            note(f"round {number + 1} of {options.rounds}")
            results.local.append(pinned.local("batched"))
            results.service.append(pinned.client(server, options.seconds))
            note(f"in-process {rate(results.local[-1:]):.1f}, service {rate(results.service[-1:]):.1f} images/s")
        note("published loop")
        results.published = pinned.local("published")
        capacity = rate(results.service)
        for share, streams in ((0.5, 1), (0.8, 1), (1.2, OVERLOAD_STREAMS)):
            name = f"open, {share:.0%} of capacity, {streams} streams"
            note(name)
            load = pinned.client(server, options.seconds, rate=share * capacity / streams, streams=streams)
            results.loads.append((name, load))
        results.loads.append(("closed, 1 stream", combined(results.service)))
        for streams in (2, OVERLOAD_STREAMS):
            seconds = 60 * options.overload_minutes if streams == OVERLOAD_STREAMS else options.seconds
            note(f"{streams} streams for {seconds:.0f} s")
            results.loads.append((f"closed, {streams} streams", pinned.client(server, seconds, streams=streams)))
    return results


def combined(rounds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Rounds as one load; percentiles are those of the middle round."""
    middle = sorted(rounds, key=lambda item: float(item["latency_ms"][0]))[len(rounds) // 2]
    sums = {name: sum(item[name] for item in rounds) for name in ("images", "seconds", "refused", "lost")}
    memory = [value for item in rounds for value in item["server_rss_mb"]]
    times = {name: sum(item[name] for item in rounds) for name in ("server_cpu_s", "client_cpu_s")}
    return middle | sums | times | {"server_rss_mb": memory}


def note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def print_page(options: argparse.Namespace, inputs: Inputs, results: Results) -> None:
    local, service, published = results.local, results.service, [results.published]
    print("| form | images/s | of in-process | CPU ms an image, server's core | CPU ms an image, client's core |")
    print("|---|---|---|---|---|")
    for name, own, cpu, client in (
        (f"in-process, batches of {options.batch}", local, cpu_ms(local, "cpu_s"), "-"),
        ("service, one stream", service, cpu_ms(service, "server_cpu_s"), f"{cpu_ms(service, 'client_cpu_s'):.2f}"),
        ("published loop, one image at a time", published, cpu_ms(published, "cpu_s"), "-"),
    ):
        print(f"| {name} | {rate(own):.1f} | {rate(own) / rate(local):.2f} | {cpu:.2f} | {client} |")
    ratios = [rate([ours]) / rate([plain]) for ours, plain in zip(service, local, strict=True)]
    print(f"\nTurns of {options.seconds:g} s: service / in-process {', '.join(f'{item:.3f}' for item in ratios)}.")
    per_key_frame = rate(published) / inputs.rows_per_key_frame
    print(
        f"The published loop runs each annotation row; with {inputs.rows_per_key_frame:.2f} rows a key frame it does "
        f"{per_key_frame:.1f} key frames a second, the service {rate(service):.1f}: "
        f"**{rate(service) / per_key_frame:.1f} times**.\n"
    )
    print(
        "| load | images/s | p50 ms | p90 ms | p99 ms | longest ms | refused streams | lost frames "
        "| server CPU ms an image | server RSS first / most / last MB |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    for name, load in results.loads:
        latencies = " | ".join(f"{value:.0f}" for value in load["latency_ms"])
        memory = load["server_rss_mb"]
        print(
            f"| {name} | {rate([load]):.1f} | {latencies} | {load['refused']} | {load['lost']} "
            f"| {cpu_ms([load], 'server_cpu_s'):.2f} | {memory[0]:.0f} / {max(memory):.0f} / {memory[-1]:.0f} |"
        )
    memory = results.loads[-1][1]["server_rss_mb"]
    quarters = [*(memory[len(memory) * part // 4] for part in range(4)), memory[-1]]
    print(
        f"\nServer's RSS at the quarters of the {options.overload_minutes:g} minutes of {OVERLOAD_STREAMS} streams: "
        f"{', '.join(f'{value:.0f}' for value in quarters)} MB. {OVERLOAD_STREAMS} streams offer "
        f"{OVERLOAD_STREAMS * WINDOW} frames at a time."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, help="Of the detector; default: seeded random ones of the slim model.")
    parser.add_argument("--image-size", type=int, nargs=2, default=[180, 320], help="Height and width.")
    parser.add_argument("--confidence", type=float, default=0.3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3, help="Turns of in-process and service.")
    parser.add_argument("--seconds", type=float, default=20, help="Of each measurement but the last.")
    parser.add_argument("--overload-minutes", type=float, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        inputs = make_inputs(folder)
        weights = options.weights.absolute() if options.weights else make_weights(folder / "seeded.pt")
        pinned = Pinned(options, inputs, weights, folder)
        load_average = os.getloadavg()[0]
        results = measure(options, pinned)
    boxes = sum(item["boxes"] for item in results.local) / sum(item["images"] for item in results.local)
    print_page(options, inputs, results)
    print(
        f"\n- Inputs: {inputs.count} key frames of the synthetic set, PNGs of {inputs.mean_bytes / 1e3:.0f} kB; "
        f"network input {options.image_size[0]}x{options.image_size[1]}, "
        f"{'given' if options.weights else 'seeded random'} weights, {boxes:.1f} boxes an image"
    )
    print(
        f"- Hardware: {processor()}, {os.cpu_count()} cores; server and in-process on core {pinned.server_core}, "
        f"client on core {pinned.client_core}, one thread each; load average before: {load_average:.1f}"
    )
    print(
        f"- Software: Python {platform.python_version()}, torch {version('torch')}, ultralytics "
        f"{version('ultralytics')}, grpcio {version('grpcio')}"
    )
    print(f"- Command: `python -m benchmarks.detector_load {shlex.join(sys.argv[1:])}`")


if __name__ == "__main__":
    main()
