"""One process of a training job, started by the launcher:

python -P -m recognizer_svc.training.launcher --local-addr 127.0.0.1 --nproc-per-node 2 \\
    -m recognizer_svc.training.worker --job-dir STORE/runs/RUN

The folder must hold recipe.yaml. A folder with a checkpoint is continued from it, so a restart never starts over.
Exit code 143 after SIGTERM or SIGINT, with a checkpoint of the last finished step.
"""

import argparse
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

import torch
from torch.distributed.elastic.multiprocessing.errors import record

from recognizer_svc.runs.run_dir import RunDir
from recognizer_svc.training.distributed import Backend, connect
from recognizer_svc.training.loop import StopSignal
from recognizer_svc.training.recipe import load_recipe
from recognizer_svc.training.run import train_run
from stal_data.errors import NotFoundError
from stal_data.owner import end_with_owner

STOPPED = 128 + signal.SIGTERM


@record
def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="recognizer_svc.training.worker", description="One process of a training job."
    )
    parser.add_argument("--job-dir", type=Path, required=True, help="folder of the run: STORE/runs/RUN")
    parser.add_argument("--backend", choices=("gloo", "nccl"), help="nccl where there is CUDA, else gloo")
    parser.add_argument("--data-root", type=Path, help="folder below which a recipe may name a data set to read")
    options = parser.parse_args(arguments)
    run_dir = RunDir(options.job_dir.absolute())
    if not run_dir.recipe.is_file():
        raise NotFoundError(f"'{run_dir.recipe}' does not exist; the run's folder must hold its recipe.")

    stop = StopSignal()

    def request_stop(*_: object) -> None:
        stop.requested = True

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, request_stop)
    end_with_owner()
    backend: Backend = options.backend or ("nccl" if torch.cuda.is_available() else "gloo")
    timeout_s = load_recipe(run_dir.recipe).training.collective_timeout_s
    with connect(backend, timeout_s=timeout_s) as ranks:
        finished = train_run(run_dir, ranks, stop, options.data_root)
    if not finished:
        sys.exit(STOPPED)


def run() -> None:
    """Run `main`. After an error, leave at once: the interpreter's own end would wait for the other ranks."""
    try:
        main()
    except Exception:  # noqa: BLE001  # `record` has written it for the launcher
        traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(1)


if __name__ == "__main__":
    run()
