"""Options of training: averaged weights, clipped gradients, early stopping; stopping and resuming changes no bit."""

import shutil

import pytest
import torch
from torch import nn

from recognizer_svc.training.distributed import Ranks
from recognizer_svc.training.run import Run, train_run
from recognizer_svc.training.weight_average import WeightAverage
from stal_data.errors import ConflictError, InputError
from tests.recognizer.conftest import make_run
from tests.recognizer.gloo_ranks import both_parts, make_trainer
from tests.recognizer.joint_ranks import StopAfter
from tests.recognizer.run_results import FLAT, assert_same, latest, predicted_map, train_on_rank, values
from tests.recognizer.two_ranks import run_two_ranks
from tests.tolerances import AUTOCAST, TWO_RANKS_BFLOAT16, check, of_the_largest

AVERAGE = "training.ema_decay=0.9"
CLIP = "training.clip_gradient_norm=0.1"
REPEATS = "data.repeat_threshold=0.9"
ADJUSTED = "loss={kind: logit_adjusted, label_smoothing: 0.1}"
BFLOAT16 = "training.autocast=bf16"


@pytest.mark.parametrize("options", [[AVERAGE], [CLIP], [REPEATS], [ADJUSTED], [AVERAGE, CLIP, REPEATS, ADJUSTED]])
def test_stopping_and_resuming_changes_no_bit(new_run, options):
    whole, parts = new_run("whole", options), new_run("parts", options)
    assert train_run(whole, Ranks())
    assert not train_run(parts, Ranks(), StopAfter(3))  # within the first epoch
    assert not train_run(parts, Ranks(), StopAfter(4))  # within the second
    assert train_run(parts, Ranks())
    assert_same(latest(parts), latest(whole))
    for name in ("map", "loss"):
        assert values(parts, "validation", name) == values(whole, "validation", name)


@pytest.mark.parametrize("option", [AVERAGE, CLIP, REPEATS, ADJUSTED, BFLOAT16])
def test_a_resumed_run_keeps_its_options(new_run, option):
    run = new_run("changed", ["training.epochs=1"])
    train_run(run, Ranks())
    new_run("changed", ["training.epochs=2", option])
    with pytest.raises(ConflictError, match=rf"{option.partition('=')[0]}[.\w]*: .* / .*Start a new run"):
        train_run(run, Ranks())


@pytest.fixture(scope="module")
def two_ranks(toy_store, tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    shutil.copytree(toy_store.root, folder / "store")
    same = ["head.dropout=0", "training.batch_norm=shared"]
    options = [AVERAGE, CLIP, REPEATS, ADJUSTED, *same]
    runs = {name: make_run(folder / "store", name, options) for name in ("whole", "parts", "alone")}
    runs["flat"] = make_run(folder / "store", "flat", [*FLAT, "validation.stop_after_epochs=2"])
    for name in ("bfloat16", "bfloat16 alone"):
        runs[name] = make_run(folder / "store", name, [AVERAGE, BFLOAT16, *same])
    together = ("whole", "parts", "flat", "bfloat16")
    run_two_ranks(train_on_rank, str(folder), *(str(runs[name].root) for name in together))
    return runs


def test_two_ranks_resume_exactly_and_train_what_one_process_trains(two_ranks):
    assert_same(latest(two_ranks["parts"]), latest(two_ranks["whole"]))
    train_run(two_ranks["alone"], Ranks())
    alone, together = latest(two_ranks["alone"]), latest(two_ranks["whole"])
    for part in ("head_state", "unaveraged"):
        for name, tensor in getattr(alone, part).items():
            torch.testing.assert_close(getattr(together, part)[name], tensor, rtol=1e-3, atol=1e-4, msg=name)
    losses = [values(two_ranks[name], "step", "loss") for name in ("whole", "alone")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_two_ranks_in_bfloat16_train_what_one_process_trains_but_for_its_rounding(two_ranks):
    train_run(two_ranks["bfloat16 alone"], Ranks())
    start = Run(make_run(two_ranks["alone"].store_root, "new"), Ranks()).head.state_dict()
    alone, together = latest(two_ranks["bfloat16 alone"]), latest(two_ranks["bfloat16"])
    for part in ("head_state", "unaveraged"):
        one, two = (
            torch.cat([(getattr(found, part)[name] - start[name]).flatten() for name in alone.unaveraged])
            for found in (alone, together)
        )
        check(f"{part}, two ranks in bfloat16", float((two - one).norm() / one.norm()), TWO_RANKS_BFLOAT16)
    losses = [values(two_ranks[name], "step", "loss") for name in ("bfloat16", "bfloat16 alone")]
    check("losses, two ranks in bfloat16", of_the_largest(*losses), AUTOCAST / 4)
    assert losses[0] != losses[1]


def test_two_ranks_end_early_together(two_ranks):
    assert latest(two_ranks["flat"]).progress.epochs_done == 3


# Averaged weights


def test_the_average_is_its_formula():
    torch.manual_seed(0)
    layer = nn.Linear(3, 2).double()
    average, expected = WeightAverage(layer, 0.5), layer.weight.detach().clone()
    for step in range(12):
        with torch.no_grad():
            layer.weight += torch.randn(2, 3)
        average.update(step)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * layer.weight.detach()
    own = layer.weight.detach().clone()
    with average.applied() as unaveraged:
        torch.testing.assert_close(layer.weight.detach(), expected)
        assert torch.equal(unaveraged["weight"], own)
    assert torch.equal(layer.weight, own)


def test_a_run_saves_and_validates_the_averages_and_trains_as_without_them(new_run):
    averaged, plain = new_run("averaged", [AVERAGE]), new_run("plain")
    for run in (averaged, plain):
        assert train_run(run, Ranks())
    found, without = latest(averaged), latest(plain)
    assert without.unaveraged is None
    for name, tensor in without.head_state.items():
        is_buffer = name not in found.unaveraged
        assert torch.equal(found.head_state[name] if is_buffer else found.unaveraged[name], tensor)
        assert torch.equal(found.head_state[name], tensor) == is_buffer
    assert predicted_map(averaged) == pytest.approx(values(averaged, "validation", "map")[-1], abs=1e-9)
    assert values(averaged, "validation", "loss") != values(plain, "validation", "loss")
    assert values(averaged, "step", "loss") == values(plain, "step", "loss")


# Clipped gradients


@pytest.mark.parametrize("limit", [0.05, 1e6])
def test_gradients_are_scaled_down_to_the_largest_norm(limit):
    """Plain SGD at rate 1 moves the weights by the gradient."""
    moves = []
    for clip in (None, limit):
        trainer = make_trainer(Ranks())
        trainer.optimizer = torch.optim.SGD(trainer.head.parameters(), lr=1)
        trainer.clip_gradient_norm = clip
        before = nn.utils.parameters_to_vector(trainer.head.parameters()).detach()
        trainer.step(both_parts(0)[2], 1.0)
        moves.append(before - nn.utils.parameters_to_vector(trainer.head.parameters()).detach())
    whole, clipped = moves
    assert (whole.norm() > limit) == (limit == 0.05)
    torch.testing.assert_close(clipped, whole * min(1, limit / float(whole.norm())), rtol=1e-3, atol=1e-6)


# Early stopping


def test_a_run_ends_when_validation_has_not_improved(new_run):
    run = new_run("flat", [*FLAT, "validation.stop_after_epochs=2"])
    assert train_run(run, Ranks())
    assert latest(run).progress.epochs_done == 3
    assert values(run, "done", "epochs") == [3]
    (said,) = [text for text in values(run, "log", "message") if text.startswith("ended after 3 of 9 epochs")]
    assert "is that of epoch 1, 2 epochs ago; to go on, raise validation.stop_after_epochs" in said

    assert train_run(run, Ranks())  # which says so again
    assert values(run, "log", "message")[-1] == said
    assert len(values(run, "epoch", "loss")) == 3
    for patience, epochs in (("4", 5), ("null", 9)):
        new_run("flat", [*FLAT, f"validation.stop_after_epochs={patience}"])
        assert train_run(run, Ranks())
        assert len(values(run, "epoch", "loss")) == epochs


def test_only_a_validation_ends_a_run(new_run):
    run = new_run("rare", [*FLAT, "validation.stop_after_epochs=1", "validation.every_epochs=3"])
    assert train_run(run, Ranks())
    assert values(run, "validation", "epoch") == [3, 6]
    assert len(values(run, "epoch", "loss")) == 6


def test_a_run_that_improves_goes_on_to_its_last_epoch(new_run):
    run = new_run("better", ["training.epochs=3", "validation.stop_after_epochs=3"])
    assert train_run(run, Ranks())
    assert values(run, "done", "epochs") == [3]
    assert not any("ended after" in text for text in values(run, "log", "message"))


def test_ending_early_needs_a_validation(new_run):
    with pytest.raises(InputError, match="validation: stop_after_epochs needs a validation; set split or held_out"):
        new_run("blind", ["validation={stop_after_epochs: 2}"])


@pytest.mark.parametrize(
    "option",
    [
        "training.ema_decay=1",
        "training.ema_decay=0",
        "training.clip_gradient_norm=0",
        "training.autocast=float16",
        "validation.stop_after_epochs=0",
    ],
)
def test_impossible_settings_are_refused(new_run, option):
    with pytest.raises(InputError, match=option.partition("=")[0]):
        new_run("wrong", [option])
