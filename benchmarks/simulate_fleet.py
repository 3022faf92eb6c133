"""Services that cameras and an archive need, by discrete-event simulation from the costs of a clip; print Markdown.

    python -m benchmarks.simulate_fleet
    python -m benchmarks.simulate_fleet --features-s 0.11 --price 3 --cameras 1000

Each camera has a key frame a second (--every-s). Any detector takes it; then the recognizer that holds the camera's
stream computes features and scores. Where one recognizer cannot keep up with one camera, the row is marked, and its
clips are divided among all of them, which RecognizeVideo does not do. Queues are first come, first served. Service
times are constant: means are measured, spreads are not. Latency begins when the last frame of the clip is there, and
leaves out the network.
"""

import argparse
import heapq
import math
import shlex
import sys

import numpy as np
from numpy.typing import NDArray

DETECT_S = 1 / 87.8  # benchmarks/results/detector-load.md: service, one stream, one core of an Intel Xeon
SLOWFAST_S, VIT_S = 6.6, 272.8  # benchmarks/results/giant-cpu.md: one clip of r50 and giant on 2 shared CPU threads
SCORE_S = 1 / 7.3  # benchmarks/results/recognize-latency.md: one caller, small head, 2 shared cores
DECODE_S = 1 / 9.79  # benchmarks/results/decode.md: 720p H.264, 2 threads; for the archive alone, beside computing


def starts(arrived_N: NDArray[np.float64], service_s: float, services: int) -> NDArray[np.float64]:
    """When equal servers begin each of the sorted arrivals, first come, first served; seconds."""
    free = [0.0] * services
    started_N = np.empty_like(arrived_N)
    for number, arrived in enumerate(arrived_N):
        started_N[number] = max(arrived, free[0])
        heapq.heapreplace(free, started_N[number] + service_s)
    return started_N


def columns(
    arrived_N: NDArray[np.float64], started_N: NDArray[np.float64], service_s: float, services: int, warm_up_s: float
) -> list[str]:
    """Services, share of the time that they work, mean and largest number that waits for any of them."""
    end = arrived_N[-1]

    def within_s(since_N: NDArray[np.float64], until_N: NDArray[np.float64]) -> float:
        return float(np.clip(np.minimum(until_N, end) - np.maximum(since_N, warm_up_s), 0, None).sum())

    share = (end - warm_up_s) * services
    waiting_N = np.arange(len(arrived_N)) - np.searchsorted(np.sort(started_N), arrived_N, side="right")
    longest = max(0, int(waiting_N[arrived_N >= warm_up_s].max()))
    mean = within_s(arrived_N, started_N) / (end - warm_up_s)
    return [str(services), f"{within_s(started_N, started_N + service_s) / share:.2f}", f"{mean:.2g} / {longest}"]


def arrivals(
    kind: str, cameras: int, every_s: float, duration_s: float
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Sorted times of key frames, seconds, and the camera of each. periodic: each camera has a phase of its own."""
    random = np.random.default_rng(0)
    count = round(duration_s / every_s)
    if kind == "poisson":
        times_N = np.cumsum(random.exponential(every_s / cameras, cameras * count))
        return times_N, random.integers(0, cameras, len(times_N))
    times_CK = random.uniform(0, every_s, cameras)[:, None] + np.arange(count) * every_s
    order_N = times_CK.ravel().argsort()
    return times_CK.ravel()[order_N], order_N // count


def live(options: argparse.Namespace, kind: str, features_s: float) -> str:
    """A row of the table of live cameras."""
    detect_s, recognize_s = options.detect_s, features_s + options.score_s
    # The system begins empty, and is full after a few service times.
    warm_up_s = max(600.0, 4 * recognize_s)
    arrived_N, camera_N = arrivals(kind, options.cameras, options.every_s, 2 * warm_up_s)
    detectors = math.ceil(options.cameras / options.every_s * detect_s / options.utilisation)
    begun_N = starts(arrived_N, detect_s, detectors)
    found_N = begun_N + detect_s
    held = min(options.max_streams, math.floor(options.utilisation * options.every_s / recognize_s))
    if held:
        recognizers = math.ceil(options.cameras / held)
        started_N = np.empty_like(found_N)
        for number in range(recognizers):
            own_N = camera_N % recognizers == number
            started_N[own_N] = starts(found_N[own_N], recognize_s, 1)
    else:
        recognizers = math.ceil(options.cameras / options.every_s * recognize_s / options.utilisation)
        started_N = starts(found_N, recognize_s, recognizers)
    cells = [kind, f"{features_s:.4g}", str(held) if held else "none: divided"]
    cells += columns(arrived_N, begun_N, detect_s, detectors, warm_up_s)
    cells += columns(found_N, started_N, recognize_s, recognizers, warm_up_s)
    latency_N = (started_N + recognize_s - arrived_N)[arrived_N >= warm_up_s]
    cells += [f"{np.percentile(latency_N, part):.3g}" for part in (50, 99)]
    cells += [f"{(detectors + recognizers) / options.cameras * options.price:.4g}"]
    return f"| {' | '.join(cells)} |"


def archive(options: argparse.Namespace, features_s: float) -> str:
    """A row of the table of the archive: a queue that is full from the start, so nothing is left to chance."""
    clips = options.archive_hours * 3600 / options.every_s
    hours = [clips * cost / 3600 for cost in (options.detect_s, max(features_s, options.decode_s) + options.score_s)]
    counts = [math.ceil(work / (24 * options.days)) for work in hours]
    used = [work / (count * 24 * options.days) for work, count in zip(hours, counts, strict=True)]
    cells = [f"{features_s:.4g}", *(f"{c} ({u:.2f})" for c, u in zip(counts, used, strict=True)), f"{sum(hours):.4g}"]
    return f"| {' | '.join(cells)} | {sum(hours) * options.price / options.archive_hours:.4g} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cameras", type=int, default=100)
    parser.add_argument("--every-s", type=float, default=1.0, help="between two key frames of a camera")
    parser.add_argument("--archive-hours", type=float, default=10_000)
    parser.add_argument("--days", type=float, default=30, help="in which the archive is to be done")
    parser.add_argument("--detect-s", type=float, default=DETECT_S, help="of one image")
    parser.add_argument(
        "--features-s", type=float, action="append", help="of one clip; repeat. Default: SlowFast alone, with the ViT"
    )
    parser.add_argument("--score-s", type=float, default=SCORE_S, help="of the people of one key frame")
    parser.add_argument("--decode-s", type=float, default=DECODE_S, help="of one clip of the archive")
    parser.add_argument("--utilisation", type=float, default=0.8, help="that services are chosen for, below 1")
    parser.add_argument("--max-streams", type=int, default=4, help="of a recognizer, as of serve recognizer")
    parser.add_argument("--price", type=float, default=1.0, help="of a service and hour")
    options = parser.parse_args()
    features = options.features_s or [SLOWFAST_S, SLOWFAST_S + VIT_S]
    print(f"{options.cameras} cameras, a key frame every {options.every_s:g} s, price {options.price:g} an hour\n")
    print("| arrivals | features, s a clip | cameras a recognizer | detectors | used | wait, mean / most ", end="")
    print("| recognizers | used | wait, mean / most | latency p50, s | p99, s | cost of a camera hour |")
    print("|---" * 12 + "|")
    for features_s in features:
        for kind in ("periodic", "poisson"):
            print(live(options, kind, features_s), flush=True)
    print(f"\nArchive of {options.archive_hours:g} hours, in {options.days:g} days\n")
    print("| features, s a clip | detectors (used) | recognizers (used) | service hours | cost of an hour of video |")
    print("|---" * 5 + "|")
    for features_s in features:
        print(archive(options, features_s))
    print(f"\nCommand: `{shlex.join(['python', '-m', 'benchmarks.simulate_fleet', *sys.argv[1:]])}`")


if __name__ == "__main__":
    main()
