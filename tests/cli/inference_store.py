"""A store with a trained run, and `infer` with all its commands in this process: to start Python costs more."""

import shlex
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner

from cache.backbones.architectures import preset_config
from cache.backbones.load import load_backbone
from cache.backbones.weights import save_backbone
from cli.main import root
from cli.workflow.stages import Stages
from recognizer_svc.runs.run_dir import RunDir
from recognizer_svc.training.distributed import Ranks
from recognizer_svc.training.recipe import load_recipe
from recognizer_svc.training.run import train_run
from tests.detector.samples import write_dataset

BACKBONES = ("slowfast", "vit")


def stal_cli(*words: object) -> str:
    result = CliRunner().invoke(root, [str(word) for word in words])
    if result.exception is not None:
        raise result.exception
    return result.output


def make_store(folder: Path, *words: str) -> Path:
    """A data set's features of two tiny backbones, and the run `first` trained on them. words: for precompute."""
    store, weights = folder / "store", []
    for kind in BACKBONES:
        weights += [f"--{kind}", save_weights(folder / f"{kind}.safetensors", seed=0)]
    data = write_dataset(folder / "data", videos=2, seconds=3)
    stal_cli("precompute", data, "--split", "train", "--store", store, *weights, *words)
    train(store, "first", seed=0)
    return store


def save_weights(path: Path, *, seed: int) -> Path:
    kind = path.stem
    made = load_backbone(kind, weights=f"random:{seed}", preset="tiny")
    config = preset_config(kind, "tiny")
    save_backbone(path, made.model, kind=kind, preset="tiny", config=config, provenance={})
    return path


def train(store: Path, run_id: str, *changes: str, seed: int) -> None:
    run = RunDir(store / "runs" / run_id)
    run.root.mkdir(parents=True, exist_ok=True)
    settings = ["data.dataset=small", "validation.split=null", "training.epochs=1"]
    run.recipe.write_text(load_recipe("linear", [*settings, f"training.seed={seed}", *changes]).to_yaml())
    assert train_run(run, Ranks())


class Inference:
    """Calls `infer` and notes which stages ran a command. before: what to do before that of a stage."""

    def __init__(self, store: Path) -> None:
        self.store, self.ran = store, list[str]()
        self.before: dict[str, Callable[[], object]] = {}

    def __call__(self, video: Path, output: Path, *options: object, run: str = "first") -> list[str]:
        self.ran.clear()
        weights = [word for kind in BACKBONES for word in (f"--{kind}", self.store.parent / f"{kind}.safetensors")]
        stal_cli("infer", video, "--store", self.store, "--run", run, *weights, "--output", output, *options)
        return list(self.ran)

    def execute(self, stages: Stages, name: str, words: Sequence[str]) -> None:
        self.ran.append(name)
        self.before.get(name, lambda: None)()
        output = stal_cli(*words)
        stages.log(name).parent.mkdir(parents=True, exist_ok=True)
        stages.log(name).write_text(f"$ stal-cli {shlex.join(words)}\n{output}")


@contextmanager
def in_this_process(store: Path, patch: pytest.MonkeyPatch) -> Iterator[Inference]:
    inference = Inference(store)
    for method in ("_execute", "_call"):
        patch.setattr(Stages, method, lambda stages, name, words: inference.execute(stages, name, words))
    yield inference
