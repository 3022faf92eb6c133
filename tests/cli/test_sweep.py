"""Sweeps of tiny heads in processes of their own: what they train, keep, choose and write."""

import csv
import json
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import Any

import psutil
import pytest
import torch
from click.testing import CliRunner, Result

import stal
from cache.store import Store
from cli.main import root
from cli.workflow.sweep.slots import ProcessSlot
from protos.generated import recognizer_pb2 as pb
from recognizer_svc.runs.events import read_events
from recognizer_svc.runs.record import read_record
from recognizer_svc.runs.run_dir import JobFiles, RunDir
from recognizer_svc.training.checkpoint import load_checkpoint
from recognizer_svc.training.distributed import Ranks
from recognizer_svc.training.recipe import load_recipe
from recognizer_svc.training.run import train_run
from stal_data.errors import StalError
from stal_eval.comparison import compare_means
from stal_eval.stored import read_matches
from tests.recognizer.conftest import make_run
from tests.recognizer.toy_store import ACAR, make_store
from tests.services.recognizer_process import ENVIRONMENT

LINEAR = ACAR.replace("toy-acar", "toy-linear").replace(
    "{kind: acar, reduce_channels: 16, context_channels: 12, depth: 1, dropout: 0.1}", "{kind: linear}"
)
RATES = ("--grid", "optimizer.learning_rate=0.001,0.02")


class Sweeps:
    """Commands on one store with two recipes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = Store.open(folder / "store")
        (folder / "acar.yaml").write_text(ACAR)
        (folder / "linear.yaml").write_text(LINEAR)

    def words(self, *words: object, recipes: tuple[str, ...] = ("linear",), name: str = "s") -> list[str]:
        files = [str(self.folder / f"{recipe}.yaml") for recipe in recipes]
        where = ["--store", str(self.store.root), "--name", name, "--output", str(self.folder / name)]
        return ["sweep", *files, *where, *map(str, words)]

    def run(self, *words: object, **options: Any) -> Result:
        return CliRunner().invoke(root, self.words(*words, **options))

    def run_dir(self, run_id: str) -> RunDir:
        return RunDir(self.store.runs_dir / run_id)

    def lines(self, name: str = "s") -> list[dict[str, str]]:
        with (self.folder / name / "sweep.csv").open(newline="") as file:
            return list(csv.DictReader(file))

    def validation(self, run_id: str) -> list[float]:
        return [e.values["map"] for e in read_events(self.run_dir(run_id).events) if e.type == "validation"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sweep")
    make_store(folder / "store")
    return folder


@pytest.fixture
def sweeps(made: Path, tmp_path: Path) -> Sweeps:
    """On a copy of the store."""
    shutil.copytree(made / "store", tmp_path / "store", ignore=shutil.ignore_patterns("runs"))
    return Sweeps(tmp_path)


@pytest.fixture(scope="module")
def swept(made: Path) -> tuple[Sweeps, dict[str, Any]]:
    """A sweep of two recipes with a test split, and what it printed; read only."""
    sweeps = Sweeps(made)
    words = (*RATES, "--seeds", 2, "--set", "training.epochs=2", "--test", "test", "--json")
    done = sweeps.run(*words, recipes=("linear", "acar"))
    assert done.exit_code == 0, done.output
    return sweeps, json.loads(done.stdout)


def test_each_run_is_that_of_train(swept: tuple[Sweeps, dict[str, Any]]) -> None:
    sweeps, printed = swept
    assert len(printed["runs"]) == 8
    assert {run["status"] for run in printed["runs"]} == {"succeeded"}
    run = sweeps.run_dir("s-toy-linear-learning_rate-0.02-seed1")
    words = ["validation.split=null", "validation.held_out=0.2", "optimizer.learning_rate=0.02", "training.seed=1"]
    plain = make_run(sweeps.store.root, "plain", words, text=LINEAR)
    assert load_recipe(plain.recipe) == load_recipe(run.recipe)
    train_run(plain, Ranks())
    # Another number of threads may add in another order.
    expected, found = (load_checkpoint(item.checkpoint("latest")) for item in (plain, run))
    torch.testing.assert_close(found.head_state, expected.head_state, rtol=1e-4, atol=1e-6)


def test_the_best_mean_of_the_last_epoch_is_chosen(swept: tuple[Sweeps, dict[str, Any]]) -> None:
    sweeps, found = swept
    means: dict[tuple[str, str], float] = {}
    for recipe in ("toy-linear", "toy-acar"):
        for rate in ("0.001", "0.02"):
            runs = [f"s-{recipe}-learning_rate-{rate}-seed{seed}" for seed in (0, 1)]
            means[recipe, rate] = fmean(sweeps.validation(run)[-1] for run in runs)
    recipe, rate = max(means, key=lambda key: means[key])
    assert found["chosen"]["recipe"] == recipe
    assert found["chosen"]["settings"] == {"optimizer.learning_rate": rate}
    assert found["chosen"]["validation_map"] == pytest.approx(means[recipe, rate])
    assert found["validation"] == "20 % of the videos of toy/train, held out"


def test_the_csv_has_a_line_a_run(swept: tuple[Sweeps, dict[str, Any]]) -> None:
    sweeps, found = swept
    lines = sweeps.lines()
    assert len(lines) == 8
    for line, run in zip(lines, found["runs"], strict=True):
        maps = sweeps.validation(line["run"])
        assert float(line["validation_map"]) == maps[-1]
        assert float(line["best_validation_map"]) == max(maps)
        assert (line["optimizer.learning_rate"], line["seed"]) in {(r, s) for r in ("0.001", "0.02") for s in "01"}
        assert float(line["training_loss"]) > 0
        assert float(line["actors_per_s"]) > 0
        assert line["run"] == run["run"]


def test_the_best_of_each_recipe_are_tested_once_and_compared(swept: tuple[Sweeps, dict[str, Any]]) -> None:
    sweeps, found = swept
    best, other = found["test"]
    assert {best["recipe"], other["recipe"]} == {"toy-linear", "toy-acar"}
    assert best["settings"] == found["chosen"]["settings"]
    store = stal.open_store(sweeps.store.root)
    folders = {}
    for cell in (best, other):
        rate = cell["settings"]["optimizer.learning_rate"]
        runs = [f"s-{cell['recipe']}-learning_rate-{rate}-seed{seed}" for seed in (0, 1)]
        folders[cell["recipe"]] = [sweeps.folder / "s" / "eval" / run for run in runs]
        for run, mean_ap in zip(runs, cell["mAP_by_seed"], strict=True):
            scores = stal.predict(store.run(run), "toy", "test", checkpoint="latest")
            assert stal.evaluate(scores, store.split("toy", "test")).mean_ap == pytest.approx(mean_ap, abs=1e-9)
    assert len(list((sweeps.folder / "s" / "eval").iterdir())) == 4
    (against,) = found["against"]
    a, b = ([read_matches(folder) for folder in folders[cell["recipe"]]] for cell in (other, best))
    expected = compare_means(a, b)
    assert (against["mean"]["delta"], against["mean"]["low"]) == (expected.delta, expected.low)
    assert len(against["seeds"]) == 2
    assert against["verdict"].startswith(f"{best['recipe']} optimizer.learning_rate=")


def test_the_page_shows_cells_curves_and_the_choice(swept: tuple[Sweeps, dict[str, Any]]) -> None:
    sweeps, found = swept
    page = (sweeps.folder / "s" / "index.html").read_text()
    assert page.count("<polyline") == 4
    assert page.count("<svg") == 2
    assert f"{found['chosen']['validation_map']:.4f}" in page
    assert found["against"][0]["verdict"] in page
    assert "held out" in page
    assert "http" not in page.replace("http-equiv", "")
    assert json.loads((sweeps.folder / "s" / "sweep.json").read_text()) == found


def attempts(sweeps: Sweeps) -> dict[str, int]:
    records = {path.name: read_record(JobFiles(RunDir(path)).record) for path in sweeps.store.runs_dir.iterdir()}
    return {name: record.attempt for name, record in records.items() if record is not None}


def test_the_same_words_again_keep_what_is_finished_and_a_grid_may_grow(
    sweeps: Sweeps, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("--seeds", 1, "--jobs", 1, "--set", "training.epochs=1")
    monkeypatch.setenv("FORCE_COLOR", "1")  # as on a terminal
    live = sweeps.run("--grid", "optimizer.learning_rate=0.01", *words)
    monkeypatch.delenv("FORCE_COLOR")
    assert live.exit_code == 0
    assert re.search("0/1.*0/1 runs.*1/1.*1/1 runs", live.stderr, re.DOTALL)
    before = attempts(sweeps)
    assert list(before.values()) == [1]
    done = sweeps.run("--grid", "optimizer.learning_rate=0.02,0.01", *words)
    assert done.exit_code == 0
    assert "1/1 runs" in done.stderr
    assert attempts(sweeps) == {**before, "s-toy-linear-learning_rate-0.02-seed0": 1}
    assert len(sweeps.lines()) == 2
    other = sweeps.run("--grid", "optimizer.learning_rate=0.01", *words, "--set", "training.epochs=2")
    assert isinstance(other.exception, StalError)
    assert "training.epochs: 1 / 2" in str(other.exception)
    assert attempts(sweeps) == {**before, "s-toy-linear-learning_rate-0.02-seed0": 1}


def test_a_run_that_fails_ends_no_other_and_is_listed(sweeps: Sweeps) -> None:
    words = ("optimizer={kind: sgd, learning_rate: 1, momentum: 0.99}", "schedule.warmup_epochs=0", "training.epochs=8")
    sets = [word for value in words for word in ("--set", value)]
    done = sweeps.run("--grid", "optimizer.learning_rate=1000,0.01", "--seeds", 1, *sets, recipes=("acar",))
    assert done.exit_code == 1
    assert isinstance(done.exception, StalError)
    assert "1 of 2 runs failed" in str(done.exception)
    assert "learning_rate-1000.0-seed0: The loss is not finite" in str(done.exception)
    assert "Chosen: toy-acar optimizer.learning_rate=0.01" in done.stdout
    failed, good = sweeps.lines()
    assert (failed["status"], failed["validation_map"]) == ("failed", "")
    assert "not finite" in failed["error"]
    assert good["status"] == "succeeded"
    page = (sweeps.folder / "s" / "index.html").read_text()
    assert "not finite" in page


def test_nothing_starts_where_the_store_lacks_what_a_recipe_names(sweeps: Sweeps) -> None:
    done = sweeps.run("--grid", "data.feature_set=0123456789abcdef,null")
    assert isinstance(done.exception, StalError)
    assert "no feature set '0123456789abcdef'" in str(done.exception)
    assert not sweeps.store.runs_dir.exists()
    lacking = sweeps.run(*RATES, "--test", "tests")
    assert "toy/tests is not published" in str(lacking.exception)


def first_checkpoint(sweeps: Sweeps, wait: Callable[[], None]) -> None:
    while not any(sweeps.store.runs_dir.glob("*/checkpoints/latest.safetensors")):
        wait()


@pytest.mark.parametrize("number", [pytest.param(signal.SIGINT, marks=pytest.mark.slow), signal.SIGKILL])
def test_an_interrupted_sweep_goes_on_to_the_same_end(sweeps: Sweeps, number: signal.Signals) -> None:
    words = ("--seeds", 2, "--set", "training.epochs=12")
    start = [sys.executable, "-P", "-m", "cli.main", *sweeps.words(*words, recipes=("acar",))]
    command = subprocess.Popen(start, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True)

    def wait() -> None:
        try:
            command.wait(0.02)
        except subprocess.TimeoutExpired:
            return
        pytest.fail(f"The command ended: {command.stderr.read() if command.stderr else ''}")

    first_checkpoint(sweeps, wait)
    command.send_signal(number)
    _, said = command.communicate()
    if number == signal.SIGINT:
        assert command.returncode == 130
        assert "The same command goes on" in said
    for _ in range(600):  # a killed command's processes notice that within seconds, and hold their runs until then
        done = sweeps.run(*words, recipes=("acar",))
        if done.exit_code == 0:
            break
        assert "is active already" in str(done.exception), done.output
    assert done.exit_code == 0
    assert sweeps.run(*words, recipes=("acar",), name="whole").exit_code == 0
    for seed in (0, 1):
        runs = [sweeps.run_dir(f"{name}-toy-acar-seed{seed}") for name in ("s", "whole")]
        found, expected = (load_checkpoint(run.checkpoint("latest")).head_state for run in runs)
        assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    assert max(attempts(sweeps).values()) > 1


async def test_a_process_that_dies_costs_its_run_and_no_other(sweeps: Sweeps) -> None:
    def request(run_id: str, epochs: int) -> pb.TrainRequest:
        words = ["validation.split=null", f"training.epochs={epochs}", "training.log_every_steps=1"]
        return pb.TrainRequest(run_id=run_id, recipe=LINEAR, overrides=words, launch=pb.Launch(nproc_per_node=1))

    slot = ProcessSlot(sweeps.store, sweeps.folder / "log", threads=1)
    try:
        updates = slot.train(request("endless", 100_000))
        while (await anext(updates)).event.WhichOneof("event") != "step":
            pass
        (process,) = (child for child in psutil.Process().children() if "cli.workflow.sweep.worker" in child.cmdline())
        process.kill()
        with pytest.raises(StalError, match=r"ended with exit code -9; its log: .*log"):
            [update async for update in updates]
        last = [update async for update in slot.train(request("short", 1))][-1]
        assert last.job.status == pb.JOB_STATUS_SUCCEEDED
        refused = [update async for update in slot.train(request("short", 1))][-1]
        assert refused.job.status == pb.JOB_STATUS_FAILED
        assert "exists in the store" in refused.job.message
    finally:
        await slot.close()
