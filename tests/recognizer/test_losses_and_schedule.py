import json
import math
from pathlib import Path
from typing import Literal

import pytest
import torch
import torch.nn.functional as F

from recognizer_svc.losses import LOSSES, Loss
from recognizer_svc.losses.pose_softmax import PoseSoftmax
from recognizer_svc.losses.sigmoid import Sigmoid
from recognizer_svc.training.checkpoint import load_checkpoint
from recognizer_svc.training.distributed import Ranks
from recognizer_svc.training.recipe import load_recipe
from recognizer_svc.training.recipe_sections import AdamW, CosineSchedule, Sgd, StepSchedule
from recognizer_svc.training.run import train_run
from recognizer_svc.training.schedule import build_optimizer, learning_rate
from stal_data.errors import InputError
from tests.tolerances import LEARNING_RATES, check

FIXTURES = Path(__file__).parent / "fixtures"
POSES = PoseSoftmax(num_poses=3)
SIGMOID = Sigmoid()


def case() -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(0)
    logits = torch.randn(6, 5, generator=random) * 3
    return logits, (torch.rand(6, 5, generator=random) < 0.3).float()


def test_poses_of_a_negative_are_lowered_to_equal_scores_only():
    """There the loss of a person who performs nothing leads."""
    logits_NC = (case()[0] / 3).requires_grad_()
    optimizer = torch.optim.Adam([logits_NC], lr=0.1)
    for _ in range(400):
        optimizer.zero_grad()
        POSES.per_class(logits_NC, torch.zeros_like(logits_NC)).sum().backward()
        optimizer.step()
    found_NC = POSES.scores(logits_NC.detach())
    torch.testing.assert_close(found_NC[:, :3], torch.full((6, 3), 1 / 3), atol=0.01, rtol=0)
    assert found_NC[:, 3:].max() < 0.01


def test_pose_scores_add_up_to_one_and_the_rest_are_independent():
    logits, _ = case()
    found = POSES.scores(logits)
    torch.testing.assert_close(found[:, :3].sum(1), torch.ones(6))
    torch.testing.assert_close(found[:, 3:], torch.sigmoid(logits[:, 3:]))


@pytest.mark.parametrize("section", [POSES, SIGMOID])
def test_the_loss_is_cross_entropy_of_the_scores_per_actor(section):
    logits, targets = case()
    expected = sum(F.binary_cross_entropy(section.scores(logits)[i], targets[i]) for i in range(6))
    torch.testing.assert_close(section.total(logits, targets), expected)


@pytest.mark.parametrize("section", [POSES, SIGMOID])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_non_finite_logit_makes_the_loss_non_finite_instead_of_raising(section, value):
    """One rank must not raise alone: the others would wait for it."""
    logits, targets = case()
    logits[2, 1], targets[2, 1] = value, 0
    assert not torch.isfinite(section.total(logits, targets))


@pytest.mark.parametrize("section", [POSES, SIGMOID])
def test_extreme_but_finite_logits_keep_loss_and_gradients_finite(section):
    logits, targets = case()
    logits = (logits * 1e4).requires_grad_()
    loss = section.total(logits, targets)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(logits.grad).all()


def test_more_poses_than_classes_are_refused():
    with pytest.raises(InputError, match="num_poses is 13, but the label map has 10 classes"):
        PoseSoftmax().check(10)


class Hinge(Loss):
    """A loss of somebody else's."""

    kind: Literal["hinge"] = "hinge"
    margin: float = 1.0

    def scores(self, logits_NC: torch.Tensor) -> torch.Tensor:
        return logits_NC.clamp(0, 1)

    def per_class(self, logits_NC: torch.Tensor, targets_NC: torch.Tensor) -> torch.Tensor:
        return (self.margin - logits_NC * (2 * targets_NC - 1)).relu()


def test_another_loss_is_one_entry_in_the_table(monkeypatch, new_run):
    with pytest.raises(InputError, match="loss: kind is 'hinge', but must be one of 'pose_softmax', 'sigmoid'"):
        load_recipe("linear", ["loss={kind: hinge}"])
    monkeypatch.setitem(LOSSES, "hinge", Hinge)
    run = new_run("hinge", ["loss={kind: hinge, margin: 0.5}", "training.epochs=1"])
    assert train_run(run, Ranks())
    assert load_checkpoint(run.checkpoint("latest")).recipe.loss == Hinge(margin=0.5)


def test_the_published_schedule():
    recipe = load_recipe("acar-published")
    expected = json.loads((FIXTURES / "lr_12x100.json").read_text())
    found = [
        learning_rate(recipe.schedule, recipe.optimizer.learning_rate, step=step, steps_per_epoch=100, epochs=12)
        for step in range(1200)
    ]
    check("learning rates", max(abs(a - b) for a, b in zip(found, expected, strict=True)), LEARNING_RATES)


def test_cosine_goes_from_warm_up_through_full_to_the_final_rate():
    schedule = CosineSchedule(kind="cosine", warmup_epochs=1, warmup_start=0.5, final=0.1)
    rates = [learning_rate(schedule, 2.0, step=step, steps_per_epoch=10, epochs=5) for step in range(50)]
    assert rates[0] == pytest.approx(1.0)
    assert rates[5] == pytest.approx(1.5)
    assert rates[10] == pytest.approx(2.0)
    assert rates[30] == pytest.approx(0.2 + 1.8 / 2)
    assert rates[49] < 0.22
    assert rates[10:] == sorted(rates[10:], reverse=True)


def test_a_step_schedule_without_warm_up_starts_at_the_full_rate():
    schedule = StepSchedule(kind="steps", milestones=(1.0,), gamma=0.5)
    assert [learning_rate(schedule, 1.0, step=s, steps_per_epoch=2, epochs=2) for s in range(4)] == [1, 1, 0.5, 0.5]


def test_optimizers_take_the_recipes_numbers():
    parameters = [torch.nn.Parameter(torch.zeros(1))]
    sgd = build_optimizer(Sgd(kind="sgd", learning_rate=0.1, momentum=0.8, weight_decay=0.01), parameters)
    assert isinstance(sgd, torch.optim.SGD)
    group = sgd.param_groups[0]
    assert (group["lr"], group["momentum"], group["nesterov"], group["weight_decay"]) == (0.1, 0.8, True, 0.01)
    adamw = build_optimizer(AdamW(kind="adamw", learning_rate=0.1, beta2=0.95, weight_decay=0.0), parameters)
    assert isinstance(adamw, torch.optim.AdamW)
    group = adamw.param_groups[0]
    assert (group["lr"], group["betas"], group["weight_decay"]) == (0.1, (0.9, 0.95), 0.0)
