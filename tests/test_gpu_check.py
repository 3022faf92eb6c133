"""The steps of a first hour on a GPU, run small on the CPU."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
STEPS = ["machine", "probes", "extract", "decode", "workflow", "recognize", "detector"]


def test_every_step_runs_small_on_a_cpu(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.gpu_check", "--device", "cpu", "--tiny", "--output", tmp_path / "out"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    outputs = {path.stem: path.read_text() for path in (tmp_path / "out").glob("*.txt")}
    assert done.returncode == 0, done.stdout + "".join(outputs.values())
    summary = (tmp_path / "out" / "summary.md").read_text().splitlines()[2:]
    assert [line.split(":")[0] for line in summary] == [f"- {name}" for name in STEPS]
    # What a probe finds wrong is in capitals.
    for alarm in ("TF32 IS ON", "IT IS THE PLAIN KERNEL", "NOT KNOWN AS SUCH", "DID NOT SAY WHY"):
        assert alarm not in outputs["probes"]
