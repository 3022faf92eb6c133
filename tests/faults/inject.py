"""Damage one file of a store at a time, and see what verifying, listing, predicting and training make of it.

    python -m tests.faults.inject SEED FAULTS       prints a table, and every outcome that is not allowed

Allowed are an error that names the file, or the feature set or run that it belongs to, and the very result of the
undamaged store. What any operation names, `cache verify` names. A fault that hangs ends the process with a traceback.
"""

import faulthandler
import random
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from click.testing import CliRunner

from cache.proposal_store import DetectorSpec, Proposals, open_proposals, write_proposals
from cache.split_store import load_split
from cache.store import Store
from cli.commands.cache import cache
from cli.commands.runs import runs
from recognizer_svc.heads import build_head
from recognizer_svc.runs.run_dir import RunDir
from recognizer_svc.scoring.predict import BoxesOfKeyFrame, Predictor
from recognizer_svc.training.checkpoint import load_checkpoint
from recognizer_svc.training.distributed import Ranks
from recognizer_svc.training.head_file import HeadInfo, save_head
from recognizer_svc.training.loop import StopSignal
from recognizer_svc.training.recipe import parse_recipe
from recognizer_svc.training.run import train_run
from stal_data.errors import StalError
from stal_data.sealed import sealed_json, sealed_text
from tests.recognizer.toy_store import ACAR, make_store

RUN = "one"
HANGS_S = 60.0
LISTED = ("cannot be opened", "broken", "is left out", "ends at event", " 0/", " 16/", " 4/")
"""How a list tells of damage; the last are rows that are not computed, of 10 or 20."""
SCORE_TRAIN = ["training.epochs=1", "validation.split=null", "head.depth=1"]
KINDS: dict[str, tuple[str, ...]] = {
    "feature shard": tuple(f"features/*/*/*/{name}/c/**/0" for name in ("slow", "fast", "vit", "vit_moments")),
    "index and marks": tuple(f"features/*/*/*/{name}/c/*" for name in ("index/*", "digest", "done", "source")),
    "metadata": ("features/*/*/*/zarr.json", "features/*/*/*/*/zarr.json"),
    "split": ("annotations/*/*/split.h5",),
    "proposals": ("proposals/*/*/*.h5",),
    "run text": tuple(f"runs/*/{name}" for name in ("recipe.yaml", "label_map.pbtxt", "provenance.json", "state.json")),
    "events": ("runs/*/events.jsonl",),
    "checkpoint": ("runs/*/checkpoints/*",),
    "weights": ("weights/*.safetensors",),
}


@dataclass(frozen=True)
class Fault:
    """kind: of the file. damage: what was done to it."""

    kind: str
    path: Path
    damage: str


@dataclass(frozen=True)
class Outcome:
    """wrong: empty where every operation ended as it may. noticed: operations that named the damage."""

    fault: Fault
    noticed: tuple[str, ...]
    wrong: tuple[str, ...]


def build(root: Path) -> Store:
    """A store with one of everything: features, splits, proposals, a head file, a run that was stopped in training."""
    store = make_store(root, train=20, test=10)
    split = load_split(store, "toy", "test")
    boxes = [item.boxes_N4 for item in split.key_frames]
    spec = DetectorSpec(name="yolo", weights="sha256:00", height=180, width=320, confidence=0.3, library="x-1")
    write_proposals(
        store,
        Proposals(
            dataset="toy",
            split="test",
            key_frames=tuple(item.key for item in split.key_frames),
            offsets_K1=np.cumsum([0, *map(len, boxes)]),
            boxes_N4=np.concatenate(boxes),
            scores_N=np.linspace(0, 1, sum(map(len, boxes)), dtype=np.float32),
            detector=spec,
        ),
    )
    run = _new_run(root, RUN, ["training.epochs=2"])
    train_run(run, Ranks(), _StopAfter(4))
    checkpoint = load_checkpoint(run.checkpoint("latest"))
    section = checkpoint.recipe.head.model_copy()
    torch.manual_seed(3)
    head = build_head(section, checkpoint.shapes, checkpoint.label_map.num_classes)
    info = HeadInfo(
        section=section,
        shapes=checkpoint.shapes,
        num_classes=checkpoint.label_map.num_classes,
        backbones={},
        epoch=1,
        provenance={},
    )
    save_head(root / "weights" / "head.safetensors", head.state_dict(), info)
    return store


def _new_run(root: Path, run_id: str, overrides: list[str]) -> RunDir:
    run = RunDir(root / "runs" / run_id)
    run.root.mkdir(parents=True)
    run.recipe.write_bytes(sealed_text(parse_recipe(ACAR, overrides).to_yaml()))
    run.state.write_bytes(sealed_json({"status": "running", "message": ""}))
    return run


class _StopAfter(StopSignal):
    def __init__(self, steps: int) -> None:
        self.steps = steps

    @property
    def requested(self) -> bool:
        self.steps -= 1
        return self.steps <= 0


# The operations: each returns what the user gets, or raises.


def verify(root: Path) -> str:
    done = CliRunner().invoke(cache, ["verify", str(root)])
    if done.exception is not None:
        raise done.exception
    return done.output


def listed(root: Path) -> str:
    """What `runs list` and `cache ls` print, without the sizes of files."""
    shown = [CliRunner().invoke(runs, ["list", "--store", str(root)]), CliRunner().invoke(cache, ["ls", str(root)])]
    for done in shown:
        if done.exception is not None:
            raise done.exception
    sets = [" ".join(line.split()[:-2]) if " kB" in line else line for line in shown[1].output.splitlines()]
    return shown[0].output.replace(str(root), "STORE") + "\n".join(sets)


def predict(root: Path) -> bytes:
    """Scores of both checkpoints, on annotated boxes and on proposals."""
    store = Store.open(root)
    split, proposals = load_split(store, "toy", "test"), open_proposals(store, "toy", "test")
    annotated = {item.key: item.boxes_N4 for item in split.key_frames}
    found = {key: proposals.of(key)[0] for key in proposals.key_frames}
    scored = []
    for name in ("latest", "best"):
        predictor = Predictor.load(root / "runs" / RUN, device="cpu", checkpoint=name)
        features = predictor.open_features(store, "toy", "test")
        for boxes in (annotated, found):
            people = [BoxesOfKeyFrame(key=key, boxes_N4=boxes_N4) for key, boxes_N4 in boxes.items()]
            scored += [item.scores_NC.tobytes() for item in predictor.predict(features, people)]
    return b"".join(scored)


def resume(root: Path) -> dict[str, bytes]:
    """The head and the optimizer's state at the end of the training."""
    run = RunDir(root / "runs" / RUN)
    train_run(run, Ranks())
    return _tensors(run)


def train(root: Path) -> dict[str, bytes]:
    """A head that starts from the weights file."""
    run = _new_run(root, "new", [*SCORE_TRAIN, "training.init_head=head.safetensors"])
    train_run(run, Ranks())
    return _tensors(run)


def _tensors(run: RunDir) -> dict[str, bytes]:
    found = load_checkpoint(run.checkpoint("latest"))
    parameters = found.optimizer_state["state"].items()
    state = {f"{parameter}.{name}": value for parameter, values in parameters for name, value in values.items()}
    return {name: value.numpy().tobytes() for name, value in (found.head_state | state).items()}


OPERATIONS: dict[str, Callable[[Path], object]] = {
    "verify": verify,
    "list": listed,
    "predict": predict,
    "resume": resume,
    "train": train,
}


UNREAD = {
    "predict": ("weights",),
    "resume": ("proposals", "weights"),
    "train": tuple(kind for kind in KINDS if kind != "weights"),
}
"""Kinds of files that an operation does not read."""


def faults(root: Path, seed: int) -> Iterator[Fault]:
    """Damage one file after another in the store at `root`, which the caller restores; kinds take turns."""
    chance = random.Random(seed)
    while True:
        for kind, patterns in KINDS.items():
            pattern = chance.choice(patterns)
            path = chance.choice(sorted(path for path in root.glob(pattern) if path.is_file()))
            content = path.read_bytes()
            way = chance.choice(("bit", "zeros", "cut"))
            place = chance.randrange(len(content))
            if way == "bit":
                bit = chance.randrange(8)
                damaged = content[:place] + bytes([content[place] ^ 1 << bit]) + content[place + 1 :]
            elif way == "zeros":
                size = chance.choice((64, 512, 4096))
                place -= place % size
                damaged = content[:place] + bytes(len(content[place : place + size])) + content[place + size :]
                way += f" {size}"
            else:
                damaged = content[:place]
            if damaged == content:
                continue
            path.write_bytes(damaged)
            yield Fault(kind, path.relative_to(root), f"{way} at {place} of {len(content)}")


def inject(root: Path, seed: int, count: int) -> Iterator[Outcome]:
    """Damage copies of the store at `root` one after another."""
    operations = OPERATIONS
    with tempfile.TemporaryDirectory(dir=root.parent) as scratch:
        place = Path(scratch) / "store"
        expected = {name: _in_copy(root, place, operation) for name, operation in operations.items()}
        shutil.copytree(root, place)
        found = faults(place, seed)
        for _ in range(count):
            fault = next(found)
            damaged = (place / fault.path).read_bytes()
            noticed, wrong = [], []
            for name, operation in operations.items():
                if fault.kind in UNREAD.get(name, ()):
                    continue
                faulthandler.dump_traceback_later(HANGS_S, exit=True)
                answer, allowed = _try(operation, place, fault, expected[name])
                faulthandler.cancel_dump_traceback_later()
                if answer:
                    (noticed if allowed else wrong).append(f"{name}: {answer}")
                if name in ("resume", "train"):
                    _restore_runs(root, place)
                    (place / fault.path).write_bytes(damaged)
            if noticed and not noticed[0].startswith("verify"):
                wrong.append(f"verify: sound, but {noticed[0]}")
            yield Outcome(fault, tuple(noticed), tuple(wrong))
            shutil.copyfile(root / fault.path, place / fault.path)


def _try(operation: Callable[[Path], object], root: Path, fault: Fault, expected: object) -> tuple[str, bool]:
    """What is not as in the undamaged store, and whether it may be so."""
    try:
        result = operation(root)
    except StalError as error:
        return str(error), any(name in str(error) for name in _names(root, fault.path))
    except Exception as error:  # noqa: BLE001  the very thing that is looked for
        return repr(error), False
    if operation is listed and result != expected:
        return str(result), any(text in str(result) for text in LISTED)
    # Verifying prints what it read, which may be less.
    return ("", True) if operation is verify or result == expected else ("another result", False)


def _in_copy(root: Path, place: Path, operation: Callable[[Path], object]) -> object:
    shutil.copytree(root, place)
    try:
        return operation(place)
    finally:
        shutil.rmtree(place)


def _restore_runs(root: Path, place: Path) -> None:
    """Undo what training wrote; nothing else writes."""
    shutil.rmtree(place / "runs")
    shutil.copytree(root / "runs", place / "runs")


def _names(root: Path, path: Path) -> list[str]:
    """What an error may call the file: itself, or the set or the run that it is of."""
    owner = {"features": 3, "runs": 1}.get(path.parts[0])
    return [str(root / path), *([] if owner is None else [path.parts[owner]])]


def main() -> None:
    seed, count = int(sys.argv[1]), int(sys.argv[2])
    torch.set_num_threads(1)
    table: Counter[tuple[str, str]] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "whole"
        build(root)
        for outcome in inject(root, seed, count):
            result = "wrong" if outcome.wrong else "named" if outcome.noticed else "same result"
            table[outcome.fault.kind, result] += 1
            if outcome.wrong:
                print(outcome.fault, *outcome.wrong, sep="\n    ", flush=True)
    for (kind, result), number in sorted(table.items()):
        print(f"{kind}\t{result}\t{number}")


if __name__ == "__main__":
    main()
