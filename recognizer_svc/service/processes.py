"""Finding, checking and stopping the processes of a job. The launcher and its workers carry the run's folder as
`--job-dir DIR` in their command lines and the node's rank in their environment. So they are found again after any
crash, and nothing else is ever signalled."""

import os
import signal
from collections.abc import Iterable
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import psutil

JOB_DIR_OPTION = "--job-dir"
NODE_RANK_VARIABLE = "STAL_NODE_RANK"
_CLOCK_TOLERANCE_S = 2.0  # the system derives start times from the boot time, which moves when the clock is set


def job_processes(run_dir: Path, node_rank: int) -> list[psutil.Process]:
    """The living processes of one node's share of a run, launcher and workers, oldest first."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if _belongs_to(process, run_dir, node_rank):
                found.append((process.create_time(), process))
    return [process for _, process in sorted(found, key=lambda pair: pair[0])]


def is_launcher(pid: int, started_s: float, run_dir: Path, node_rank: int) -> bool:
    """True while the recorded launcher lives: same pid, same start, same run."""
    try:
        process = psutil.Process(pid)
        return abs(process.create_time() - started_s) < _CLOCK_TOLERANCE_S and _belongs_to(process, run_dir, node_rank)
    except psutil.Error:
        return False


def process_start_s(pid: int) -> float:
    """Start of a process, seconds since 1970; 0 if it is gone already."""
    try:
        return psutil.Process(pid).create_time()
    except psutil.Error:
        return 0.0


def signal_group(pgid: int, number: signal.Signals) -> None:
    """Signal a process group; one that is gone is fine."""
    with suppress(ProcessLookupError):
        os.killpg(pgid, number)


def kill_all(processes: Iterable[psutil.Process]) -> None:
    """SIGKILL what is left. Workers lead sessions of their own, so the launcher's group does not contain them."""
    for process in processes:
        with suppress(psutil.Error):
            process.kill()


def _belongs_to(process: psutil.Process, run_dir: Path, node_rank: int) -> bool:
    if process.status() == psutil.STATUS_ZOMBIE:
        return False
    if [JOB_DIR_OPTION, str(run_dir)] not in map(list, pairwise(process.cmdline())):
        return False
    return process.environ().get(NODE_RANK_VARIABLE) == str(node_rank)
