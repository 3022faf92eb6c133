"""Runs on one process: what they learn, what they leave on disk, and that stopping changes nothing."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch.utils._python_dispatch import TorchDispatchMode

from recognizer_svc.runs.events import EventWriter, read_events
from recognizer_svc.runs.run_dir import RunDir
from recognizer_svc.training.checkpoint import load_checkpoint
from recognizer_svc.training.distributed import Ranks
from recognizer_svc.training.loop import NonFiniteLossError, StopSignal
from recognizer_svc.training.recipe import load_recipe
from recognizer_svc.training.run import Run, train_run
from stal_data.errors import ConflictError, InputError, NotFoundError
from stal_data.labels import LabelMap
from tests.recognizer.gloo_ranks import both_parts, make_trainer
from tests.recognizer.toy_store import LABELS, make_store

GOLDEN = Path(__file__).parent / "fixtures" / "losses_cpu.txt"


def train(run_dir: RunDir, stop: StopSignal | None = None) -> bool:
    return train_run(run_dir, Ranks(), stop)


def events(run_dir: RunDir, kind: str) -> list[dict]:
    return [event.values for event in read_events(run_dir.events) if event.type == kind]


class StopAfter(StopSignal):
    """Asks to stop at a given step, as a signal would."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    @property
    def requested(self) -> bool:
        self.steps -= 1
        return self.steps <= 0


def test_ten_seeded_steps_give_the_golden_losses(new_run):
    run_dir = new_run("golden", ["training.log_every_steps=1", "training.epochs=2", "validation.split=null"])
    train(run_dir)
    found = [event["loss"] for event in events(run_dir, "step")]
    golden = [float(line) for line in GOLDEN.read_text().split()]
    assert len(golden) == 10
    # Another CPU may add in another order; a change of the method moves the losses by far more.
    assert found == pytest.approx(golden, rel=1e-4)


class Waits(TorchDispatchMode):
    """Counts how often a value is brought from the device to Python."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func.name() in ("aten::_local_scalar_dense", "aten::is_nonzero", "aten::equal")
        return func(*args, **(kwargs or {}))


def test_a_step_brings_no_single_value_from_the_device():
    trainer, (batch, _, _) = make_trainer(Ranks()), both_parts(0)
    with Waits() as waits:
        totals, stop = trainer.step(batch, 0.1)
    assert (totals.actors, stop, waits.count) == (4, False, 0)
    assert totals.loss > 0


@pytest.mark.parametrize(
    "switch",
    [
        "torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True",
        "torch.backends.fp32_precision = 'tf32'",
        "torch.backends.mkldnn.conv.fp32_precision = torch.backends.cudnn.conv.fp32_precision = 'tf32'",
        "torch.set_float32_matmul_precision('high')",
    ],
)
def test_a_run_computes_in_float32_whatever_was_switched_on(new_run, switch):
    run = new_run("exact", ["training.epochs=1"])
    code = (
        "import sys, torch\n"
        "from recognizer_svc.runs.run_dir import RunDir\n"
        "from recognizer_svc.training.distributed import Ranks\n"
        "from recognizer_svc.training.run import train_run\n"
        f"{switch}\n"
        "train_run(RunDir(__import__('pathlib').Path(sys.argv[1])), Ranks())\n"
        "b = torch.backends\n"
        "assert not (b.cudnn.allow_tf32 or b.cuda.matmul.allow_tf32)\n"
        "assert torch.get_float32_matmul_precision() == 'highest'\n"
        "assert 'tf32' not in (b.fp32_precision, b.cudnn.conv.fp32_precision, b.mkldnn.conv.fp32_precision)\n"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", code, run.root], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (start,) = json.loads(run.provenance.read_text())["starts"]
    assert start["tf32"] is False


def test_acar_and_relation_learn_what_depends_on_others_and_the_linear_head_cannot(tmp_path):
    store = make_store(tmp_path / "store", train=140, test=105)
    best = {}
    for kind in ("acar", "relation", "linear"):
        run_dir = RunDir(store.runs_dir / kind)
        run_dir.root.mkdir(parents=True)
        recipe = load_recipe(
            kind,
            ["data.dataset=toy", "training.epochs=4", "training.batch_clips=8", "optimizer.learning_rate=0.01"],
        )
        run_dir.recipe.write_text(recipe.to_yaml())
        assert train(run_dir)
        best[kind] = events(run_dir, "validation")[-1]["map"]
    # Standing and waving show in a person's own pixels; watching and looking around differ by the others alone.
    assert best["acar"] > 0.97
    assert best["relation"] > 0.97
    assert best["linear"] < 0.87


def test_what_a_run_leaves_behind(new_run, toy_store):
    run_dir = new_run("kept")
    assert train(run_dir)
    kinds = [event.type for event in read_events(run_dir.events)]
    assert [event.seq for event in read_events(run_dir.events)] == list(range(1, len(kinds) + 1))
    assert kinds[-1] == "done"
    assert kinds.count("epoch") == kinds.count("validation") == 2
    assert LabelMap.read(run_dir.label_map) == LABELS
    assert any(
        "36 key frames" in e["message"] and "6 without people skipped" in e["message"] for e in events(run_dir, "log")
    )
    step = events(run_dir, "step")[0]
    assert step.keys() >= {"epoch", "epochs", "step", "steps_per_epoch", "loss", "learning_rate", "actors_per_s"}
    assert step.keys() >= {"data_s", "compute_s"}
    assert list(run_dir.tensorboard.glob("events.out.tfevents.*"))

    provenance = json.loads(run_dir.provenance.read_text())
    assert provenance["recipe"] == load_recipe(run_dir.recipe).model_dump(mode="json")
    assert provenance["label_map"] == LABELS.digest
    assert provenance["feature_sets"].keys() == {"train", "train_hflip", "validation"}
    assert provenance["feature_sets"]["train"]["spec"]["view"] == "identity"
    assert provenance["splits"]["train"].keys() == {"dataset", "split", "digest"}
    assert provenance["starts"][0]["torch"] == torch.__version__
    assert provenance["starts"][0]["world_size"] == 1

    checkpoint = load_checkpoint(run_dir.checkpoint("latest"))
    assert checkpoint.label_map == LABELS
    assert checkpoint.progress.epochs_done == 2
    assert checkpoint.feature_spec.id == provenance["feature_sets"]["train"]["id"]
    assert checkpoint.optimizer_state["state"]
    best = load_checkpoint(run_dir.checkpoint("best"))
    assert best.progress.validation_map == max(e["map"] for e in events(run_dir, "validation"))
    assert not list(run_dir.root.rglob("*.partial"))


def test_no_best_checkpoint_where_the_recipe_keeps_none(new_run):
    run_dir = new_run("honest", ["validation.keep_best=false", "training.epochs=1"])
    train(run_dir)
    assert run_dir.checkpoint("latest").exists()
    assert not run_dir.checkpoint("best").exists()
    assert events(run_dir, "validation")


@pytest.mark.parametrize("stop_after", [2, 5, 7])  # within the first epoch, at its last step, within the second
def test_stopping_and_resuming_changes_no_bit(new_run, stop_after):
    overrides = ["training.epochs=3", "head.dropout=0.3"]
    whole, parts = new_run("whole", overrides), new_run("parts", overrides)
    assert train(whole)
    assert not train(parts, StopAfter(stop_after))
    assert events(parts, "done") == []
    assert train(parts)
    expected, found = (load_checkpoint(run.checkpoint("latest")) for run in (whole, parts))
    for name, tensor in expected.head_state.items():
        assert torch.equal(found.head_state[name], tensor), name
    for key, state in expected.optimizer_state["state"].items():
        for name, value in state.items():
            assert torch.equal(found.optimizer_state["state"][key][name], value)
    for kind, fields in (("epoch", ("epoch", "loss", "actors")), ("validation", ("epoch", "map", "loss"))):
        before, after = ([{name: e[name] for name in fields} for e in events(r, kind)] for r in (whole, parts))
        assert before == after
    assert len(json.loads(parts.provenance.read_text())["starts"]) == 2


def test_a_stop_at_the_last_step_of_an_epoch_is_obeyed_there_and_not_after_the_last_epoch(new_run):
    short, long = (new_run(str(epochs), [f"training.epochs={epochs}", "training.batch_clips=64"]) for epochs in (1, 9))
    assert train(short, StopAfter(1))  # it was through anyway
    assert not train(long, StopAfter(1))  # one step is an epoch
    assert load_checkpoint(long.checkpoint("latest")).progress.epochs_done == 1


def test_another_seed_gives_another_head(new_run):
    heads = []
    for seed in (0, 1):
        run_dir = new_run(f"seed-{seed}", [f"training.seed={seed}", "training.epochs=1"])
        train(run_dir)
        heads.append(load_checkpoint(run_dir.checkpoint("latest")).head_state["fc2.weight"])
    assert not torch.equal(*heads)


def test_a_finished_run_says_how_to_go_on_and_then_does(new_run):
    run_dir = new_run("long", ["training.epochs=1"])
    train(run_dir)
    assert train(run_dir)
    assert "raise training.epochs and resume" in events(run_dir, "log")[-1]["message"]
    new_run("long", ["training.epochs=2"])
    assert train(run_dir)
    assert [event["epoch"] for event in events(run_dir, "epoch")] == [1, 2]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("head.depth=2", "head.depth: 1 / 2"),
        ("optimizer.learning_rate=0.5", "optimizer.learning_rate: 0.01 / 0.5"),
        ("training.batch_clips=4", "training.batch_clips: 8 / 4"),
    ],
)
def test_resuming_with_another_recipe_is_refused(new_run, override, message):
    run_dir = new_run("changed", ["training.epochs=1"])
    train(run_dir)
    new_run("changed", ["training.epochs=2", override])
    with pytest.raises(ConflictError, match=message):
        train(run_dir)
    assert message in events(run_dir, "error")[0]["message"]


def test_without_mirrored_features_the_run_says_so(tmp_path):
    store = make_store(tmp_path / "store", train=14, test=7, views=("identity",), vit=False)
    run_dir = RunDir(store.runs_dir / "plain")
    run_dir.root.mkdir(parents=True)
    run_dir.recipe.write_text(
        load_recipe("linear", ["data.dataset=toy", "training.epochs=1", "validation.split=null"]).to_yaml()
    )
    train(run_dir)
    assert any("no mirrored features" in event["message"] for event in events(run_dir, "log"))
    assert load_checkpoint(run_dir.checkpoint("latest")).progress.validation_map is None


def test_a_loss_that_explodes_stops_the_run_and_names_the_cause(new_run):
    optimizer = "{kind: sgd, learning_rate: 1000, momentum: 0.99}"
    run_dir = new_run("wild", [f"optimizer={optimizer}", "schedule.warmup_epochs=0", "training.epochs=20"])
    with pytest.raises(NonFiniteLossError, match=r"not finite on 1 of 1 ranks .* key frames video.*learning_rate"):
        train(run_dir)
    assert events(run_dir, "error")


def test_the_batch_must_suit_the_number_of_processes(new_run):
    run_dir = new_run("odd", ["training.batch_clips=3"])
    with pytest.raises(InputError, match="batch_clips is 3, which 2 processes cannot share evenly"):
        Run(run_dir, Ranks(world_size=2))


def test_only_tensors_and_plain_values_are_read_from_a_checkpoint(new_run, tmp_path):
    run_dir = new_run("read", ["training.epochs=1"])
    train(run_dir)
    foreign = tmp_path / "foreign.safetensors"
    save_file({"a": torch.ones(3)}, foreign)
    with pytest.raises(InputError, match="damaged or no checkpoint: it does not begin with its checksum"):
        load_checkpoint(foreign)
    hostile = tmp_path / "hostile.pt"
    torch.save({"version": 1, "recipe": Path("x")}, hostile)
    with pytest.raises(InputError, match=r"hostile\.pt' does not read"):
        load_checkpoint(hostile)
    torch.save({"state_dict": {}}, tmp_path / "foreign.pt")
    with pytest.raises(InputError, match="not a checkpoint of this program"):
        load_checkpoint(tmp_path / "foreign.pt")
    with pytest.raises(NotFoundError, match="has not saved one yet"):
        load_checkpoint(tmp_path / "none.pt")


def test_a_line_that_a_crash_cut_off_does_not_spoil_the_next(tmp_path):
    path = tmp_path / "events.jsonl"
    with EventWriter(path) as writer:
        writer.write("log", message="one")
    with path.open("ab") as file:
        file.write(b'{"seq": 2, "time"')
    with EventWriter(path) as writer:
        writer.write("log", message="two")
    assert [(event.seq, event.values["message"]) for event in read_events(path)] == [(1, "one"), (2, "two")]
