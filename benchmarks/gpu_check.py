"""The first hour on a GPU machine: tests, probes and benchmarks, each with a time limit; a folder of results.

    python -m benchmarks.gpu_check --output gpu-results                      # about 25 minutes
    python -m benchmarks.gpu_check --output results --device cpu --tiny      # the same steps on a CPU, small

Every step is a process of its own: one that fails or hangs is noted, and the next one runs. Needs the packages of the
extra dev; what a step lacks is in its output. `summary.md` has a line a step.
"""

import argparse
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

LIMIT_S = 480
CLIPS = ["--clips", "64", "--batch-size", "8", "--batch-size", "32", "--compile"]
TINY_CLIPS = ["--clips", "2", "--vit-preset", "tiny", "--slowfast-preset", "tiny"]
DECODE = ["--threads", "1", "--threads", "16"]
TINY_DECODE = ["--seconds", "6", "--size", "320x180", "--threads", "2"]
RECOGNIZE = ["--head", "published", "--seconds", "5"]
TINY_RECOGNIZE = ["--callers", "1", "--seconds", "0.5", "--key-frames", "16"]
DETECTOR = ["--rounds", "1", "--seconds", "10", "--overload-minutes", "0.2"]
TINY_DETECTOR = ["--rounds", "1", "--seconds", "0.5", "--overload-minutes", "0.02"]


@dataclass(frozen=True, kw_only=True)
class Step:
    """name: of its file of output. words: what Python runs. advice: what it finds, as a taken port, fails nothing."""

    name: str
    words: list[str]
    advice: bool = False


def steps(device: str, *, tiny: bool) -> list[Step]:
    on = ["--device", device]
    small = ["--tiny"] if tiny else []
    found = [
        Step(name="machine", words=["-m", "cli.main", "doctor"], advice=True),
        Step(name="probes", words=["-m", "benchmarks.gpu_probes", *on, *small]),
        Step(name="extract", words=["-m", "benchmarks.extract", *on, *(TINY_CLIPS if tiny else CLIPS)]),
        Step(name="decode", words=["-m", "benchmarks.decode", *(TINY_DECODE if tiny else DECODE)]),
        Step(name="workflow", words=["-m", "benchmarks.gpu_workflow", *on, *small]),
        Step(
            name="recognize",
            words=["-m", "benchmarks.recognize_latency", *on, *(TINY_RECOGNIZE if tiny else RECOGNIZE)],
        ),
        Step(name="detector", words=["-m", "benchmarks.detector_load", *on, *(TINY_DETECTOR if tiny else DETECTOR)]),
    ]
    if device != "cpu":
        found.insert(2, Step(name="tests", words=["-m", "pytest", "-m", "gpu", "-q", "tests"]))
    return found


def run(step: Step, folder: Path) -> str:
    """Run a step, with its output in a file; return how it ended."""
    start = time.perf_counter()
    with (folder / f"{step.name}.txt").open("w") as output:
        output.write(f"python {' '.join(step.words)}\n\n")
        output.flush()
        try:
            done = subprocess.run([sys.executable, *step.words], stdout=output, stderr=output, timeout=LIMIT_S)
        except subprocess.TimeoutExpired:
            return f"ended after its limit of {LIMIT_S} s"
    failed = "found problems" if step.advice else f"FAILED ({done.returncode})"
    return f"{failed if done.returncode else 'passed'}, {time.perf_counter() - start:.0f} s"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder for the results; made when missing")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    lines = []
    for step in steps(options.device, tiny=options.tiny):
        ended = run(step, options.output)
        lines.append(f"- {step.name}: {ended}")
        print(lines[-1], flush=True)
        (options.output / "summary.md").write_text("# GPU check\n\n" + "\n".join(lines) + "\n")
    if any("FAILED" in line or "limit" in line for line in lines):
        sys.exit(1)


if __name__ == "__main__":
    main()
