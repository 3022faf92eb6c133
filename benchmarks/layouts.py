"""The two layouts of a data set compared: key frames with all their people, and the published rows.

    python benchmarks/layouts.py DATA STORE --output benchmarks/results/layouts.md

DATA and STORE are those of `stal-cli demo --output demo-out`: demo-out/data and demo-out/store, with features of the
splits train and test. The store is only read; runs and the splits' annotations go to a folder of their own.
"""

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

import stal_eval
from cache.split_store import publish_split
from cache.store import Store
from recognizer_svc.runs.events import read_events
from recognizer_svc.runs.run_dir import RunDir
from recognizer_svc.scoring.engine import Engine
from recognizer_svc.scoring.queries import PredictQuery
from recognizer_svc.training.distributed import Ranks
from recognizer_svc.training.recipe import load_recipe
from recognizer_svc.training.recipe_sections import Layout
from recognizer_svc.training.run import train_run
from stal_data.annotations import write_ground_truth
from stal_data.dataset import Dataset

LAYOUTS: tuple[Layout, ...] = ("key_frames", "rows")
# name -> changes of the recipe. An epoch of rows has several times the clips, and so the steps, of one of key frames;
# the second training takes as many steps with whole key frames.
TRAININGS: dict[str, tuple[str, ...]] = {
    "key_frames": (),
    "key_frames, 2 a step": ("training.batch_clips=2",),
    "rows": ("data.layout=rows",),
}
RECIPE = ("acar", "loss={kind: pose_softmax, num_poses: 8}", "validation.split=null")
COLUMNS = ["video", "timestamp", "x1", "y1", "x2", "y2", "label", "score"]
CAPACITIES = "1:200"  # as the demo; a key frame of the synthetic data has at most 5 people and 12 classes


@dataclass(frozen=True, kw_only=True)
class Training:
    """clips, steps: an epoch's. epoch_s: median wall time of an epoch. cpu_s: CPU time an epoch, start-up included."""

    name: str
    seed: int
    clips: int
    steps: int
    epoch_s: float
    cpu_s: float


@dataclass(frozen=True, kw_only=True)
class Score:
    """mean_ap: best of the sweep. interactions: mean AP of the interaction classes there. rows: predictions."""

    trained: str
    predicted: Layout
    seed: int
    rows: int
    mean_ap: float
    interactions: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("store", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--note", default="", help="what to say about the machine, such as 'shared with other work'")
    parser.add_argument("--output", type=Path, help="write the tables as Markdown")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        store = _own_store(Path(folder), arguments.data, arguments.store)
        truth = Path(folder) / "truth.csv"
        write_ground_truth(truth, Dataset.open(arguments.data).split("test").key_frames)
        trainings, scores = [], []
        for seed in arguments.seeds:
            for name in TRAININGS:
                trainings.append(_train(store, name, seed))
                print(json.dumps(vars(trainings[-1])), file=sys.stderr)
                for predicted in LAYOUTS:
                    scores.append(_score(store, truth, name, predicted, seed))
                    print(json.dumps(vars(scores[-1])), file=sys.stderr)
    text = as_markdown(trainings, scores, arguments.note)
    print(text)
    if arguments.output:
        arguments.output.write_text(text)


def _own_store(folder: Path, data: Path, features: Path) -> Store:
    """A store that shares the features and has annotations with row counts and runs of its own."""
    store = Store.open(folder / "store", create=True)
    (store.root / "features").symlink_to(features.absolute() / "features")
    dataset = Dataset.open(data)
    for name in ("train", "test"):
        publish_split(store, dataset.split(name))
    return store


def _run_id(name: str, seed: int) -> str:
    return f"{list(TRAININGS).index(name)}-{seed}"


def _train(store: Store, name: str, seed: int) -> Training:
    recipe = load_recipe(RECIPE[0], [*RECIPE[1:], *TRAININGS[name], f"training.seed={seed}"])
    run_dir = RunDir(store.runs_dir / _run_id(name, seed))
    run_dir.root.mkdir(parents=True)
    run_dir.recipe.write_text(recipe.to_yaml())
    started = time.process_time()
    train_run(run_dir, Ranks())
    cpu_s = (time.process_time() - started) / recipe.training.epochs
    events = list(read_events(run_dir.events))
    notes = [event.values["message"] for event in events if event.type == "log"]
    (clips,) = (int(note.split()[2]) for note in notes if note.startswith("training on "))
    # The steps' own time: neither starting nor saving.
    seconds = [event.values["data_s"] + event.values["compute_s"] for event in events if event.type == "epoch"]
    steps = max(event.values["steps_per_epoch"] for event in events if event.type == "step")
    return Training(name=name, seed=seed, clips=clips, steps=steps, epoch_s=float(np.median(seconds)), cpu_s=cpu_s)


def _score(store: Store, truth: Path, trained: str, predicted: Layout, seed: int) -> Score:
    query = PredictQuery(
        run_id=_run_id(trained, seed),
        checkpoint="latest",
        dataset=_dataset(store),
        split="test",
        proposals=None,
        feature_set="",
        layout=predicted,
    )
    prediction = Engine(store, device="cpu").prepare(query)
    label_map = prediction.model.label_map
    frame = pd.DataFrame(
        [
            (item.key.video, item.key.time_ms / 1000, *box, label_id, score)
            for item in prediction.scored
            for box, scores in zip(item.boxes_N4.tolist(), item.scores_NC.tolist(), strict=True)
            for label_id, score in zip(label_map.ids, scores, strict=True)
        ],
        columns=COLUMNS,
    )
    result = stal_eval.evaluate(frame, truth, label_map, capacities=CAPACITIES)
    per_class = result.per_class()
    interactions = [per_class[label.name] or 0.0 for label in label_map.labels if label.type == "PERSON_INTERACTION"]
    return Score(
        trained=trained,
        predicted=predicted,
        seed=seed,
        rows=len(frame),
        mean_ap=float(result.best.mean_ap),
        interactions=float(np.mean(interactions)),
    )


def _dataset(store: Store) -> str:
    """The name of the only data set of the store."""
    (folder,) = (store.root / "annotations").iterdir()
    return folder.name


def as_markdown(trainings: list[Training], scores: list[Score], note: str) -> str:
    seeds = sorted({item.seed for item in trainings})
    lines = [
        "# The layouts, as measured",
        "",
        f"Recipe `{RECIPE[0]}` with `--set '{RECIPE[1]}'`, head seeds {' '.join(map(str, seeds))}, on the demo's "
        "features. mAP at IoU 0.5 with ground-truth boxes, best capacity of the sweep; the interactions are watch, "
        "greet, chase and flee, their mean AP at that capacity. Mean over the seeds, and each seed.",
        "",
        "| trained on | predicted in | prediction rows | mAP | interactions |",
        "|---|---|---|---|---|",
    ]
    for trained in TRAININGS:
        for predicted in LAYOUTS:
            mine = [item for item in scores if (item.trained, item.predicted) == (trained, predicted)]
            cells = (_mean(item.mean_ap for item in mine), _mean(item.interactions for item in mine))
            lines.append(f"| {trained} | {predicted} | {mine[0].rows} | {cells[0]} | {cells[1]} |")
    lines += [
        "",
        "| trained on | clips an epoch | steps | seconds an epoch, each seed | CPU seconds |",
        "|---|---|---|---|---|",
    ]
    for name in TRAININGS:
        runs = [item for item in trainings if item.name == name]
        seconds = " ".join(f"{item.epoch_s:.1f}" for item in runs)
        cpu = " ".join(f"{item.cpu_s:.1f}" for item in runs)
        lines.append(f"| {name} | {runs[0].clips} | {runs[0].steps} | {seconds} | {cpu} |")
    lines += [
        "",
        f"- Machine: {platform.processor() or platform.machine()}, {os.cpu_count()} CPU threads, torch on one"
        + (f"; {note}" if note else ""),
        f"- Software: Python {platform.python_version()}, torch {version('torch')}; {date.today().isoformat()}",
        "- Command: `python benchmarks/layouts.py demo-out/data demo-out/store`",
        "",
    ]
    return "\n".join(lines)


def _mean(values: Iterable[float]) -> str:
    found = list(values)
    return f"**{np.mean(found):.3f}** ({' '.join(f'{value:.3f}' for value in found)})"


if __name__ == "__main__":
    main()
