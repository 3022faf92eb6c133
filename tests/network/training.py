"""Training jobs on the hosts, and what they leave; for the tests of their faults."""

from dataclasses import dataclass
from pathlib import Path

import torch

from recognizer_svc.runs.events import Event, read_events
from recognizer_svc.runs.run_dir import RunDir
from recognizer_svc.training.checkpoint import Checkpoint, load_checkpoint
from tests.network.hosts import Host, Network, Program, until
from tests.network.services import BUCKET, Service, credentials, start_recognizer
from tests.recognizer.toy_store import ACAR

STORE = f"s3://{BUCKET}/faults"
EPOCHS = 40
GRACE_S = 10


@dataclass(kw_only=True)
class Site:
    """A laptop with the recipe, and two recognizers on a store with features."""

    network: Network
    laptop: Host
    recognizers: dict[str, Service]

    def train(self, run_id: str, *options: object, on: str = "a", rank: int | None = None) -> Program:
        """Start the client of a job. rank: of a job over both recognizers; None is a job of one."""
        nodes: tuple[object, ...] = ()
        if rank is not None:
            nodes = ("--nnodes", 2, "--node-rank", rank, "--rdzv-endpoint", f"{self.recognizers['a'].host.name}:29400")
        recipe = () if "--resume" in options else (self.laptop.disk / "acar.yaml", "--set", f"training.epochs={EPOCHS}")
        return self.laptop.start(
            *("train", *recipe, "--run-id", run_id, "--backend", "gloo", "--nproc-per-node", 1, *nodes, *options),
            *("--recognizer", self.recognizers[on].address, *credentials(self.laptop)),
        )

    def train_on_both(self, run_id: str, *options: object) -> list[Program]:
        return [self.train(run_id, *options, on=key, rank=rank) for rank, key in enumerate("ab")]

    def jobs(self, command: str, *words: object, on: str = "a", host: Host | None = None) -> Program:
        host = host or self.laptop
        return host.start("jobs", command, *words, "--recognizer", self.recognizers[on].address, *credentials(host))

    def restart(self, key: str, *options: object) -> None:
        self.recognizers[key] = start_service(self.recognizers[key].host, *options)

    def run_on(self, key: str, run_id: str) -> RunDir:
        """The run as it is on a recognizer's own disk."""
        return RunDir(stage_of(self.recognizers[key].host) / "runs" / run_id)

    def wait_for_epoch(self, run_id: str, epoch: int, *, on: str = "a", seconds: float = 120) -> None:
        """Wait for the checkpoint after an epoch."""
        run = self.run_on(on, run_id)
        until(lambda: epochs_saved(run) >= epoch, f"epoch {epoch} of {run_id}", seconds=seconds)

    def job_log(self, key: str, run_id: str) -> str:
        rank = "ab".index(key)
        logs = [self.run_on(key, run_id).root / "job" / f"node_{node}.log" for node in {0, rank}]
        return "\n".join(log.read_text() for log in logs if log.exists())


def stage_of(host: Host) -> Path:
    return host.disk / "stage"


def start_service(host: Host, *options: object) -> Service:
    stage = ("--stage", stage_of(host), "--stage-limit", "1GB")
    return start_recognizer(host, STORE, *stage, "--grace-s", GRACE_S, *options)


def events(run: RunDir) -> list[Event]:
    return list(read_events(run.events))


def epochs_saved(run: RunDir) -> int:
    return max((event.values["epoch"] for event in events(run) if event.type == "checkpoint"), default=0)


def losses(run: RunDir) -> dict[int, float]:
    """Of each epoch; of one that was trained twice, the last."""
    return {event.values["epoch"]: event.values["loss"] for event in events(run) if event.type == "epoch"}


def latest(run: RunDir) -> Checkpoint:
    return load_checkpoint(run.checkpoint("latest"))


def assert_same_bits(found: RunDir, expected: RunDir) -> None:
    """Weights, optimizer and the last epoch's loss are those of the other run, bit for bit."""
    assert losses(found)[EPOCHS] == losses(expected)[EPOCHS]
    ours, theirs = latest(found), latest(expected)
    assert ours.progress.epochs_done == theirs.progress.epochs_done == EPOCHS
    for name, tensor in theirs.head_state.items():
        assert torch.equal(ours.head_state[name], tensor), name
    for number, state in theirs.optimizer_state["state"].items():
        for name, tensor in state.items():
            assert torch.equal(ours.optimizer_state["state"][number][name], tensor), (number, name)


def write_recipe(host: Host) -> None:
    (host.disk / "acar.yaml").write_text(
        ACAR.replace("validation: {split: test}", "validation: {split: null}").replace(
            "log_every_steps: 2", "log_every_steps: 1"
        )
    )
