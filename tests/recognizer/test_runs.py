"""Listing and comparing runs, as a function and as a command."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from cache.store import Store
from cli.commands.runs import runs
from recognizer_svc.runs.events import EventWriter
from recognizer_svc.runs.run_dir import RunDir
from recognizer_svc.runs.store import RunStore
from recognizer_svc.training.distributed import Ranks
from recognizer_svc.training.recipe import parse_recipe
from recognizer_svc.training.run import train_run
from stal_data.errors import InputError, NotFoundError
from stal_data.sealed import sealed_text
from tests.recognizer.toy_store import ACAR


@pytest.fixture(scope="module")
def store(toy_store, tmp_path_factory) -> Store:
    """Two trained runs and one that never started; read only."""
    root = tmp_path_factory.mktemp("runs") / "store"
    shutil.copytree(toy_store.root, root)
    for run_id, overrides in (
        ("wide", ["training.epochs=1"]),
        ("narrow", ["training.epochs=2", "head.context_channels=6"]),
        ("waiting", []),
    ):
        run_dir = RunDir(root / "runs" / run_id)
        run_dir.root.mkdir(parents=True)
        run_dir.recipe.write_text(parse_recipe(ACAR, overrides).to_yaml())
        if run_id != "waiting":
            train_run(run_dir, Ranks())
    run_dir.state.write_text(json.dumps({"status": "queued", "message": ""}))
    return Store.open(root)


def test_runs_are_listed_with_what_came_of_them(store):
    found = {run.run_id: run for run in RunStore.of(store).summaries()}
    assert list(found) == ["waiting", "wide", "narrow"]
    assert (found["waiting"].status, found["waiting"].epochs_done, found["waiting"].loss) == ("queued", 0, None)
    narrow = found["narrow"]
    assert (narrow.status, narrow.epochs_done, narrow.epochs) == ("succeeded", 2, 2)
    assert 0 < narrow.loss < 1
    assert 0 < narrow.validation_map <= narrow.best_map <= 1
    assert narrow.train_s > 0


def test_a_comparison_shows_what_differs_and_nothing_else(store):
    comparison = RunStore.of(store).compare(["narrow", "wide"])
    assert dict(comparison.differences) == {"head.context_channels": ("6", "12"), "training.epochs": ("2", "1")}


def test_a_failed_run_says_why(store, tmp_path):
    shutil.copytree(store.runs_dir / "wide", tmp_path / "runs" / "wide")
    store = Store.open(tmp_path, create=True)
    with EventWriter(RunDir(store.runs_dir / "wide").events) as events:
        events.write("error", rank=0, message="it broke")
    (run,) = RunStore.of(store).summaries()
    assert (run.status, run.message) == ("failed", "it broke")


@pytest.fixture
def copy(store: Store, tmp_path: Path) -> Store:
    """A copy that a test may damage."""
    return Store.open(shutil.copytree(store.root, tmp_path / "copy", dirs_exist_ok=True))


def _cut(run: RunDir) -> None:
    run.recipe.write_bytes(run.recipe.read_bytes()[:-40])


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (_cut, r"recipe.yaml' is damaged: its sha256"),
        (lambda run: run.recipe.unlink(), r"recipe.yaml"),
        (lambda run: run.recipe.write_text("- a\n- b\n"), "is no recipe"),
        (lambda run: run.events.write_text('{"seq": 1, "time": "x", "type": "log"}\n'), "Line 1 .* is no event"),
        (lambda run: run.events.write_text('{"seq": 1, "time": 1e300, "type": "log"}\n'), "created"),
        (lambda run: run.events.write_text('{"seq": 1, "time": 1, "type": ["log"]}\n'), "Line 1 .* is no event"),
        (lambda run: run.events.write_text('{"seq": 1, "time": 1, "type": "error", "message": [1]}\n'), "message"),
        (
            lambda run: run.events.write_text(
                '{"seq": 1, "time": 1, "type": "validation", "map": {}, "duration_s": 1}\n'
            ),
            "map",
        ),
        (lambda run: run.provenance.write_text('{"splits": {"a": {"digest": 3}}}'), "TypeError"),
        (lambda run: run.provenance.write_text('{"feature_sets": {"a": {"id": 3}}}'), "settings"),
        (lambda run: run.recipe.write_text("a: [" * 9), "flow|YAML"),
        (lambda run: run.state.write_text("[]"), r"state.json' is damaged: it is not a JSON object"),
        (lambda run: run.provenance.write_bytes(b"\xff"), r"provenance.json' is damaged: it is not JSON"),
        (lambda run: run.provenance.write_text('{"splits": 3}'), "AttributeError"),
        (lambda run: run.events.write_text('{"seq": 1, "time": 1, "type": "epoch"}\n'), "duration_s"),
        (lambda run: run.checkpoint("latest").write_bytes(b""), r"latest.safetensors' is damaged"),
    ],
)
def test_a_broken_run_is_listed_as_broken_and_ends_nothing(copy, damage, problem):
    wide = RunDir(copy.runs_dir / "wide")
    wide.recipe.write_bytes(sealed_text(wide.recipe.read_text()))
    damage(wide)
    found = {run.run_id: run for run in RunStore.of(copy).summaries()}
    assert found["wide"].status == "broken"
    assert (found["narrow"].status, found["narrow"].problems) == ("succeeded", ())
    listed = CliRunner().invoke(runs, ["list", "--store", str(copy.root)])
    assert listed.exit_code == 0, listed.output
    assert re.search(rf"(?m)^wide: .*({problem})", listed.output), listed.output
    compared = CliRunner().invoke(runs, ["compare", "narrow", "wide", "--store", str(copy.root)])
    assert compared.exit_code == 0, compared.output
    assert "broken" in compared.output
    assert re.search(rf"(?m)^wide: .*({problem})", compared.output)


def test_lost_and_damaged_events_are_named(copy):
    events = RunDir(copy.runs_dir / "wide").events
    lines = events.read_bytes().splitlines(keepends=True)
    events.write_bytes(b"".join([lines[0], lines[1][:30] + b"?" + lines[1][31:], *lines[2:4], lines[4][:50]]))
    (run,) = [run for run in RunStore.of(copy).summaries() if run.run_id == "wide"]
    damaged, cut, lost = run.problems
    assert "Line 2 of" in damaged
    assert "Line 5 of" in cut
    assert "cut off" in cut
    assert "ends at event 4, but a checkpoint was saved after event" in lost


def test_the_commands_print_tables(store):
    listed = CliRunner().invoke(runs, ["list", "--store", str(store.root)])
    assert listed.exit_code == 0, listed.output
    assert "narrow" in listed.output
    assert "2/2" in listed.output
    compared = CliRunner().invoke(runs, ["compare", "narrow", "wide", "--store", str(store.root)])
    assert compared.exit_code == 0
    assert "head.context_channels" in compared.output
    assert "optimizer.learning_rate" not in compared.output


def test_an_empty_store_says_how_to_fill_it(tmp_path):
    listed = CliRunner().invoke(runs, ["list", "--store", str(tmp_path)])
    assert listed.exit_code == 0
    assert "stal-cli train RECIPE" in listed.output


def test_bad_names_are_refused(store):
    with pytest.raises(NotFoundError, match=r"no run 'narow'.*Did you mean 'narrow'"):
        RunStore.of(store).compare(["narow", "wide"])
    with pytest.raises(InputError, match=r"run id is '\.\./wide'"):
        RunStore.of(store).compare(["../wide", "wide"])
    with pytest.raises(InputError, match="at least two runs"):
        RunStore.of(store).compare(["wide"])


def test_listing_needs_no_torch(store):
    code = (
        "import sys; from cache.store import Store; from recognizer_svc.runs.store import RunStore; "
        f"assert len(RunStore.of(Store.open({str(store.root)!r})).summaries()) == 3; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
