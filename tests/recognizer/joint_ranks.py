"""What each of two real gloo processes does for test_joint_runs.py; importable, so that a spawned process finds it."""

from pathlib import Path

import torch

from recognizer_svc.runs.run_dir import RunDir
from recognizer_svc.training.distributed import connect
from recognizer_svc.training.loop import StopSignal
from recognizer_svc.training.run import train_run


class StopAfter(StopSignal):
    """Asks to stop at a given step, as a signal would."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    @property
    def requested(self) -> bool:
        self.steps -= 1
        return self.steps <= 0


def run_rank(rank: int, folder: str, data_root: str, whole: str, parts: str) -> None:
    """Train one run in one go, and one with a stop inside its first epoch."""
    torch.set_num_threads(1)
    rendezvous, frames = Path(folder) / "rendezvous", Path(data_root)
    with connect("gloo", timeout_s=300, init_method=f"file://{rendezvous}", rank=rank, world_size=2) as ranks:
        assert train_run(RunDir(Path(whole)), ranks, data_root=frames)
        assert not train_run(RunDir(Path(parts)), ranks, StopAfter(3), data_root=frames)
        assert train_run(RunDir(Path(parts)), ranks, data_root=frames)
