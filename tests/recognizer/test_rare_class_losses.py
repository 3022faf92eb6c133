"""The losses for unequal classes, against their formulas written out one value at a time."""

import math

import numpy as np
import pytest
import torch

from cache.split_store import load_split
from recognizer_svc.data import labelled_key_frames
from recognizer_svc.losses import loss_of
from recognizer_svc.losses.asymmetric import Asymmetric
from recognizer_svc.losses.focal import Focal
from recognizer_svc.losses.logit_adjusted import LogitAdjusted
from recognizer_svc.losses.sigmoid import Sigmoid
from recognizer_svc.training.distributed import Ranks
from recognizer_svc.training.run import Run
from stal_data.errors import InputError
from tests.recognizer.toy_store import LABELS

POSITIVES, ACTORS = [30.0, 2.0, 0.0, 50.0, 11.0], 50.0


def case() -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(0)
    logits = torch.randn(6, 5, generator=random, dtype=torch.float64) * 3
    return logits, (torch.rand(6, 5, generator=random) < 0.3).double()


def focal(p: float, performed: bool, _: int, *, gamma: float, alpha: float | None) -> float:
    weight = 1.0 if alpha is None else alpha if performed else 1 - alpha
    right = p if performed else 1 - p
    return -weight * (1 - right) ** gamma * math.log(right)


def asymmetric(p: float, performed: bool, _: int, *, positive: float, negative: float, clip: float) -> float:
    if performed:
        return -((1 - p) ** positive) * math.log(p)
    q = max(p - clip, 0)
    return -(q**negative) * math.log(1 - q)


def adjusted(p: float, performed: bool, class_index: int, *, tau: float) -> float:
    prior = (POSITIVES[class_index] + 1) / (ACTORS + 2)
    logit = math.log(p / (1 - p)) + tau * math.log(prior / (1 - prior))
    return -math.log(1 / (1 + math.exp(-logit if performed else logit)))


CASES = {
    "focal": (Focal(), lambda *place: focal(*place, gamma=2, alpha=None)),
    "focal with alpha": (Focal(gamma=0.5, alpha=0.25), lambda *place: focal(*place, gamma=0.5, alpha=0.25)),
    "asymmetric": (Asymmetric(), lambda *place: asymmetric(*place, positive=0, negative=4, clip=0.05)),
    "asymmetric without clip": (
        Asymmetric(gamma_positive=1, gamma_negative=0.5, clip=0),
        lambda *place: asymmetric(*place, positive=1, negative=0.5, clip=0),
    ),
    "logit adjusted": (LogitAdjusted().fitted(POSITIVES, [ACTORS] * 5), lambda *place: adjusted(*place, tau=1)),
    "half adjusted": (LogitAdjusted(tau=0.5).fitted(POSITIVES, [ACTORS] * 5), lambda *place: adjusted(*place, tau=0.5)),
}
LOSSES = pytest.mark.parametrize("loss", [loss for loss, _ in CASES.values()], ids=list(CASES))


@pytest.mark.parametrize("name", CASES)
def test_the_loss_is_its_formula(name):
    loss, formula = CASES[name]
    logits, targets = case()
    expected = [
        [formula(1 / (1 + math.exp(-logit)), performed > 0, index) for index, (logit, performed) in enumerate(row)]
        for row in torch.stack([logits, targets], dim=2).tolist()
    ]
    torch.testing.assert_close(loss.per_class(logits, targets), torch.tensor(expected, dtype=torch.float64))


@LOSSES
def test_gradients_are_those_of_the_loss(loss):
    logits, targets = case()
    assert torch.autograd.gradcheck(lambda x: loss.per_class(x, targets), logits.requires_grad_())


@LOSSES
@pytest.mark.parametrize("scale", [30, 1e4, 1e30])
def test_extreme_logits_keep_loss_and_gradients_finite(loss, scale):
    logits, targets = case()
    logits = torch.cat([logits.float() * scale, torch.zeros(1, 5)]).requires_grad_()
    total = loss.total(logits, torch.cat([targets.float(), torch.zeros(1, 5)]))
    total.backward()
    assert torch.isfinite(total)
    assert torch.isfinite(logits.grad).all()


@LOSSES
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("performed", [0, 1])
def test_a_non_finite_logit_makes_the_loss_non_finite_instead_of_raising(loss, value, performed):
    logits, targets = case()
    logits[2, 1], targets[2, 1] = value, performed
    found = loss.per_class(logits, targets)
    assert not torch.isfinite(found[2, 1])
    assert torch.isfinite(found).sum() == found.numel() - 1


@pytest.mark.parametrize("loss", [Focal(gamma=0), Asymmetric(gamma_negative=0, clip=0), LogitAdjusted(tau=0)])
def test_without_their_settings_they_are_binary_cross_entropy(loss):
    logits, targets = case()
    found = loss.fitted(POSITIVES, [ACTORS] * 5).per_class(logits, targets)
    torch.testing.assert_close(found, Sigmoid().per_class(logits, targets))


@pytest.mark.parametrize("loss", [Sigmoid(), *(loss for loss, _ in CASES.values())], ids=["sigmoid", *CASES])
def test_smoothing_mixes_the_losses_of_either_target(loss):
    logits, targets = case()
    smoothed = loss.model_copy(update={"label_smoothing": 0.2}).per_class(logits, targets)
    expected = 0.9 * loss.per_class(logits, targets) + 0.1 * loss.per_class(logits, 1 - targets)
    torch.testing.assert_close(smoothed, expected)


@LOSSES
def test_scores_are_sigmoids(loss):
    logits, _ = case()
    torch.testing.assert_close(loss.scores(logits), logits.sigmoid())


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"kind": "focal", "gamma": -1}, "gamma"),
        ({"kind": "focal", "alpha": 1}, "alpha"),
        ({"kind": "asymmetric", "clip": 1}, "clip"),
        ({"kind": "logit_adjusted", "tau": 1e9}, "tau"),
        ({"kind": "sigmoid", "label_smoothing": 1}, "label_smoothing"),
        ({"kind": "pose_softmax", "label_smoothing": 0.1}, "label_smoothing"),
    ],
)
def test_impossible_settings_are_refused(values, field):
    with pytest.raises(ValueError, match=field):
        loss_of(values)


@pytest.mark.parametrize("threshold", ["null", "0.9"])
def test_a_run_takes_the_priors_of_the_actors_that_it_trains_on(new_run, threshold):
    run_dir = new_run("fitted", ["loss={kind: logit_adjusted}", f"data.repeat_threshold={threshold}"])
    run = Run(run_dir, Ranks())
    items = labelled_key_frames(load_split(run.runs.store, "toy", "train"), LABELS)
    factors = run.inputs.repeats_K
    assert (factors.max() > 1) == (threshold != "null")
    positives, actors = np.zeros(4), np.zeros(4)
    for factor, item in zip(factors, items, strict=True):
        positives += factor * item.targets_NC.sum(axis=0)
        actors += factor * len(item.targets_NC)
    expected = LogitAdjusted().fitted(positives.tolist(), actors.tolist())
    logits, targets = torch.zeros(1, 4), torch.ones(1, 4)
    torch.testing.assert_close(run.trainer.loss.per_class(logits, targets), expected.per_class(logits, targets))


def test_a_setting_of_another_loss_is_refused(new_run):
    with pytest.raises(InputError, match="loss: unknown key 'gamma'"):
        new_run("wrong", ["loss={kind: sigmoid, gamma: 2}"])
