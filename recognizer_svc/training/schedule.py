"""Learning rate as a function of the step alone, so a resumed run needs no scheduler state."""

import math
from collections.abc import Iterable

from torch import nn
from torch.optim import SGD, Optimizer
from torch.optim import AdamW as TorchAdamW

from recognizer_svc.training.recipe_sections import AdamW, CosineSchedule, Sgd, StepSchedule


def learning_rate(
    schedule: StepSchedule | CosineSchedule, base: float, *, step: int, steps_per_epoch: int, epochs: int
) -> float:
    """Return the rate of a step. `step` counts from 0 over the whole run; `base` is the rate after the warm-up."""
    epoch = step / steps_per_epoch
    if epoch < schedule.warmup_epochs:
        progress = epoch / schedule.warmup_epochs
        return base * (schedule.warmup_start + (1 - schedule.warmup_start) * progress)
    if schedule.kind == "steps":
        # Compared in whole steps, so that 5.6 epochs of 100 steps are 560 whatever the rounding of 5.6.
        passed = sum(step >= round(milestone * steps_per_epoch, 6) for milestone in schedule.milestones)
        return base * schedule.gamma**passed
    length = max(epochs - schedule.warmup_epochs, 1 / steps_per_epoch)
    progress = min((epoch - schedule.warmup_epochs) / length, 1.0)
    return base * (schedule.final + (1 - schedule.final) * 0.5 * (1 + math.cos(math.pi * progress)))


def build_optimizer(section: Sgd | AdamW, parameters: Iterable[nn.Parameter]) -> Optimizer:
    if section.kind == "sgd":
        return SGD(
            parameters,
            lr=section.learning_rate,
            momentum=section.momentum,
            nesterov=section.nesterov,
            weight_decay=section.weight_decay,
        )
    return TorchAdamW(
        parameters,
        lr=section.learning_rate,
        betas=(section.beta1, section.beta2),
        weight_decay=section.weight_decay,
    )
