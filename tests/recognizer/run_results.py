"""What a run has left, short to read."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cache.split_store import load_split
from cache.store import Store
from recognizer_svc.runs.events import read_events
from recognizer_svc.runs.run_dir import RunDir
from recognizer_svc.scoring.predict import BoxesOfKeyFrame, Predictor
from recognizer_svc.training.checkpoint import Checkpoint, load_checkpoint
from recognizer_svc.training.distributed import connect
from recognizer_svc.training.run import train_run
from recognizer_svc.training.validation import mean_average_precision
from tests.recognizer.joint_ranks import StopAfter


def latest(run: RunDir) -> Checkpoint:
    return load_checkpoint(run.checkpoint("latest"))


def values(run: RunDir, kind: str, name: str) -> list[Any]:
    """A value of all events of a kind."""
    return [event.values[name] for event in read_events(run.events) if event.type == kind]


def assert_same(found: Checkpoint, expected: Checkpoint) -> None:
    """To the bit: weights, averages, optimizer."""
    for part in ("head_state", "backbone_state", "unaveraged"):
        mine, theirs = (getattr(checkpoint, part) or {} for checkpoint in (found, expected))
        assert mine.keys() == theirs.keys()
        assert [name for name in mine if not torch.equal(mine[name], theirs[name])] == []
    for number, state in expected.optimizer_state["state"].items():
        for name, value in state.items():
            assert torch.equal(found.optimizer_state["state"][number][name], value)


def predicted_map(run: RunDir) -> float:
    """MAP of what the run's latest checkpoint predicts for the people of the toy store's test split."""
    store = Store.open(run.store_root)
    predictor = Predictor.load(run.root, device="cpu")
    key_frames = load_split(store, "toy", "test").key_frames
    people = [BoxesOfKeyFrame(key=item.key, boxes_N4=item.boxes_N4) for item in key_frames]
    scored = predictor.predict(predictor.open_features(store, "toy", "test"), people)
    targets_NC = predictor.label_map.targets([ids for item in key_frames for ids in item.labels])
    found = mean_average_precision(np.concatenate([item.scores_NC for item in scored]), targets_NC)
    assert found is not None
    return found


def train_on_rank(rank: int, folder: str, whole: str, parts: str, flat: str, bfloat16: str) -> None:
    """On each of two ranks: a run in one go, the same one with a stop, one that ends early, and one in bfloat16."""
    torch.set_num_threads(1)
    rendezvous = Path(folder) / "rendezvous"
    with connect("gloo", timeout_s=300, init_method=f"file://{rendezvous}", rank=rank, world_size=2) as ranks:
        assert train_run(RunDir(Path(whole)), ranks)
        assert not train_run(RunDir(Path(parts)), ranks, StopAfter(3))
        assert train_run(RunDir(Path(parts)), ranks)
        assert train_run(RunDir(Path(flat)), ranks)
        assert train_run(RunDir(Path(bfloat16)), ranks)


FLAT: Sequence[str] = [
    "head={kind: linear, standardise: false}",
    "optimizer.learning_rate=1e-30",
    "training.batch_clips=64",
    "training.epochs=9",
]
"""A recipe whose scores no epoch changes, so that the first validation is the best one."""
