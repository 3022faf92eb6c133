"""Averaged weights: they are validated and saved for scoring, while the optimizer goes on with its own."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class WeightAverage:
    """Exponential moving averages of a module's parameters. Buffers are not averaged: the module's own count."""

    def __init__(self, trained: nn.Module, decay: float, unaveraged: Mapping[str, Tensor] | None = None) -> None:
        """Start from the parameters that the module has.

        unaveraged: where these are averages already, of a checkpoint, those that it goes on with; by name.
        """
        self._trained, self._decay = trained, decay
        self._averages = [parameter.detach().clone() for parameter in trained.parameters()]
        if unaveraged is not None:
            with torch.no_grad():
                for name, parameter in trained.named_parameters():
                    parameter.copy_(unaveraged[name])

    def update(self, step: int) -> None:
        """Take the parameters in after a step, which counts from 0 over the run. The first ones weigh more."""
        decay = min(self._decay, (1 + step) / (10 + step))
        for average, parameter in zip(self._averages, self._trained.parameters(), strict=True):
            average.lerp_(parameter.detach(), 1 - decay)

    @contextmanager
    def applied(self) -> Iterator[dict[str, Tensor]]:
        """Let the module have the averages; yields its own parameters by name. Not between forward and backward."""
        self._swap()
        try:
            yield {name: own for (name, _), own in zip(self._trained.named_parameters(), self._averages, strict=True)}
        finally:
            self._swap()

    def _swap(self) -> None:
        for number, parameter in enumerate(self._trained.parameters()):
            parameter.data, self._averages[number] = self._averages[number], parameter.data
