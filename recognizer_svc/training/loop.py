"""One epoch of training: forward, a loss weighted by actors, agreement among the ranks, a step."""

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from recognizer_svc.data import LabelledBatch
from recognizer_svc.losses import Loss
from recognizer_svc.training.distributed import Ranks
from stal_data.errors import StalError


class NonFiniteLossError(StalError):
    """The loss became NaN or infinite."""


@dataclass(kw_only=True, slots=True)
class Totals:
    """Sums over steps and over all ranks; the times are this rank's.

    loss_sum: sum over actors, so that the mean does not depend on how the actors fell into batches.
    data_s: waiting for features. compute_s: everything else.
    """

    steps: int = 0
    actors: int = 0
    loss_sum: float = 0.0
    data_s: float = 0.0
    compute_s: float = 0.0

    def add(self, other: "Totals") -> None:
        self.steps += other.steps
        self.actors += other.actors
        self.loss_sum += other.loss_sum
        self.data_s += other.data_s
        self.compute_s += other.compute_s

    @property
    def loss(self) -> float:
        """Mean over actors; 0 where there were none."""
        return self.loss_sum / self.actors if self.actors else 0.0

    @property
    def wall_s(self) -> float:
        return self.data_s + self.compute_s

    @property
    def actors_per_s(self) -> float:
        return self.actors / self.wall_s if self.wall_s else 0.0


@dataclass(slots=True)
class StopSignal:
    """Set by a signal handler; all ranks learn of it with the next step's sums and stop after the same step."""

    requested: bool = False


@dataclass(kw_only=True)
class Trainer:
    """What a step needs.

    head: all that is trained: a head, or a JointModel.
    model: `head` itself, or the wrapper that averages its gradients over the ranks.
    clip_gradient_norm: the largest norm of these gradients; None = any.
    autocast: whether the forward pass computes in bfloat16 what torch finds suitable; the loss is float32 even so.
    """

    head: nn.Module
    model: nn.Module
    optimizer: Optimizer
    loss: Loss
    ranks: Ranks
    stop: StopSignal = field(default_factory=StopSignal)
    clip_gradient_norm: float | None = None
    autocast: bool = False

    def step(self, batch: LabelledBatch, learning_rate: float) -> tuple[Totals, bool]:
        """Train on this rank's part of a step. Returns the step's sums, and whether to stop after it.

        The loss is the mean over the actors of all ranks: each rank's sum is divided by that number and multiplied by
        the number of ranks, because the gradients are averaged over the ranks afterwards. A rank without actors
        takes part with a loss of 0; where no rank has one, nobody steps.
        """
        device = self.ranks.device
        self.model.train()
        with torch.autocast(device.type, torch.bfloat16, enabled=self.autocast):
            logits_NC = self.model(batch.head.to(device))
        if self.autocast:
            logits_NC = logits_NC.float()
        labelled_NC = None if batch.labelled_NC is None else batch.labelled_NC.to(device)
        local_sum = self.loss.total(logits_NC, batch.targets_NC.to(device), labelled_NC)
        actors, total, broken, stop = self._agree(local_sum.detach(), len(batch.targets_NC))
        if broken:
            raise NonFiniteLossError(
                f"The loss is not finite on {broken} of {self.ranks.world_size} ranks at learning rate "
                f"{learning_rate:g}; this rank held the key frames {', '.join(map(str, batch.keys)) or '(none)'}. "
                "Lower optimizer.learning_rate, or resume from the last checkpoint with another training.seed."
            )
        if actors:
            for group in self.optimizer.param_groups:
                group["lr"] = learning_rate
            self.optimizer.zero_grad(set_to_none=True)
            (local_sum * (self.ranks.world_size / actors)).backward()  # type: ignore[no-untyped-call]
            if self.clip_gradient_norm is not None:
                nn.utils.clip_grad_norm_(self.head.parameters(), self.clip_gradient_norm)
            self.optimizer.step()
        return Totals(steps=1, actors=actors, loss_sum=total), stop

    def _agree(self, local_sum: Tensor, local_actors: int) -> tuple[int, float, int, bool]:
        """Return actors and loss of all ranks, ranks with a non-finite loss, and whether anyone wants to stop."""
        # On the ranks' device because nccl has no CPU collectives; float64 holds the counts exactly. The process waits
        # for the device once, at the end.
        finite = torch.isfinite(local_sum)
        sums = torch.tensor([local_actors, 0, 0, self.stop.requested], dtype=torch.float64).to(
            self.ranks.device, non_blocking=True
        )
        sums[1] = torch.where(finite, local_sum.double(), 0)
        sums[2] = ~finite
        actors, total, broken, stop = self.ranks.sum(sums).tolist()
        return int(actors), total, int(broken), stop > 0


def timed(batches: Iterable[LabelledBatch]) -> Iterator[tuple[LabelledBatch, float]]:
    """Yield each batch with the seconds spent waiting for it."""
    iterator = iter(batches)
    while True:
        started = time.perf_counter()
        batch = next(iterator, None)
        if batch is None:
            return
        yield batch, time.perf_counter() - started
