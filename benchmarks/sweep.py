"""Time and memory of the capacity sweep, against reading the file and against one capacity at a time.

    python benchmarks/sweep.py --output benchmarks/results/sweep.md

Each size runs in a process of its own, on one core, with the compiled code warm.
"""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.sweep_data import CLASSES, write_files
from benchmarks.sweep_plain import mean_ap
from stal_data.labels import Label, LabelMap
from stal_eval import evaluate
from stal_eval.table import load_table

ROWS_PER_KEY_FRAME = 375
NAMES = ["video", "timestamp", "x1", "y1", "x2", "y2", "label", "score"]
PLAIN_CAPACITY = 200
REPEATS = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[150_000, 1_500_000, 15_000_000])
    parser.add_argument("--plain-rows", type=int, default=1_500_000, help="size that also runs one capacity plainly")
    parser.add_argument("--output", type=Path, help="write the table as Markdown")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measure(arguments.measure, plain=arguments.rows[0] == arguments.plain_rows)))
        return
    results = []
    for rows in arguments.rows:
        with tempfile.TemporaryDirectory() as folder:
            write_files(Path(folder), rows=rows, key_frames=rows // ROWS_PER_KEY_FRAME, rounded=True)
            results.append(_in_own_process(Path(folder), rows, arguments.plain_rows))
            print(json.dumps(results[-1]), file=sys.stderr)
    text = as_markdown(results)
    print(text)
    if arguments.output:
        arguments.output.write_text(text)


def _in_own_process(folder: Path, rows: int, plain_rows: int) -> dict[str, Any]:
    command = [sys.executable, __file__, "--measure", str(folder), "--rows", str(rows), "--plain-rows", str(plain_rows)]
    single = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, **single})
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def measure(folder: Path, *, plain: bool) -> dict[str, Any]:
    """Return seconds of processor time, which other work on the machine disturbs least, and MiB for the files."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    predictions, truth = folder / "predictions.csv", folder / "ground_truth.csv"
    label_map = LabelMap([Label(index, f"action {index}") for index in range(1, CLASSES + 1)])
    head = pd.read_csv(predictions, header=None, names=NAMES, nrows=100)
    evaluate(head, pd.read_csv(truth, header=None, names=[*NAMES[:-1], "person"]), label_map)  # compiles

    result: dict[str, Any] = {}
    result["evaluate_s"], evaluation = _best(lambda: evaluate(predictions, truth, label_map, tie_bounds=False))
    result["bounds_s"], _ = _best(lambda: evaluate(predictions, truth, label_map))
    result["peak_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    result["load_s"], _ = _best(lambda: (load_table(predictions, "predictions"), load_table(truth, "ground truth")))
    result["pandas_s"], frame = _best(lambda: pd.read_csv(predictions, header=None, names=NAMES))
    result["rows"] = evaluation.counts.prediction_rows
    result["ground_truth_rows"] = evaluation.counts.ground_truth_rows
    result["key_frames"] = evaluation.counts.key_frames
    result["longest"] = evaluation.counts.rows_of_longest_key_frame
    if plain:
        truth_frame = pd.read_csv(truth, header=None, names=[*NAMES[:-1], "person"])
        start = time.process_time()
        plain_map = mean_ap(frame, truth_frame, PLAIN_CAPACITY)
        result["plain_s"] = time.process_time() - start
        swept_map = evaluation.mean_ap_C[evaluation.capacities.index(PLAIN_CAPACITY)]
        result["difference"] = abs(plain_map - float(swept_map))
        assert result["difference"] < 1e-9, (plain_map, swept_map)
    return result


def _best(run: Callable[[], Any]) -> tuple[float, Any]:
    times = []
    for _ in range(REPEATS):
        start = time.process_time()
        value = run()
        times.append(time.process_time() - start)
    return min(times), value


def as_markdown(results: list[dict[str, Any]]) -> str:
    versions = ", ".join(f"{name} {version(name)}" for name in ("numpy", "pandas", "numba"))
    lines = [
        "# Capacity sweep",
        "",
        f"`python benchmarks/sweep.py`, {date.today()}, {_cpu()}, one core, Python {platform.python_version()}, "
        f"{versions}. Load average of the machine at the end: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores "
        "(above 1, other work ran beside it).",
        "",
        "Scores have three decimals, so most rows tie. All capacities 50 to 2199. Seconds are processor "
        f"time, the best of {REPEATS} runs with the compiled code warm. `pandas` is `read_csv` with default "
        "settings; `read` also checks every row and reads the ground truth; `sweep` is what the evaluation takes "
        "beyond `read`, digests, curves, error breakdown and diagnosis included; `bounds` is the same with tie bounds. "
        "Ratios are to `pandas`.",
        "",
        "| rows | ground truth | key frames | longest | pandas s | read s | sweep s | ratio | bounds s | ratio "
        "| sweep us a row | peak MiB |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for result in results:
        rest, bounds = result["evaluate_s"] - result["load_s"], result["bounds_s"] - result["load_s"]
        lines.append(
            f"| {result['rows']} | {result['ground_truth_rows']} | {result['key_frames']} | {result['longest']} | "
            f"{result['pandas_s']:.2f} | {result['load_s']:.2f} | {rest:.2f} | {rest / result['pandas_s']:.2f} | "
            f"{bounds:.2f} | {bounds / result['pandas_s']:.2f} | "
            f"{1e6 * rest / result['rows']:.2f} | {result['peak_mib']:.0f} |"
        )
    for result in results:
        if "plain_s" in result:
            rest = result["evaluate_s"] - result["load_s"]
            sweep = 2150 * result["plain_s"]
            lines += [
                "",
                f"One capacity ({PLAIN_CAPACITY}) the plain way (`benchmarks/sweep_plain.py`), {result['rows']} rows: "
                f"{result['plain_s']:.1f} s, so {sweep / 3600:.1f} h for 2150 of them: the sweep is "
                f"{sweep / rest:,.0f} times faster. The two mAPs differ by {result['difference']:.1e}.",
            ]
    return "\n".join(lines) + "\n"


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    names = [line.split(":")[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
    return names[0] if names else platform.processor()


if __name__ == "__main__":
    main()
