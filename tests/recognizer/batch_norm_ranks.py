"""What each of two gloo processes does for test_shared_batch_norm.py; a spawned process imports it."""

from pathlib import Path

import torch
from torch import Tensor

from recognizer_svc.data import LabelledBatch
from recognizer_svc.heads.batch_norm import ActorBatchNorm, share_statistics
from recognizer_svc.heads.build import build_head
from recognizer_svc.recipe import parse_recipe
from recognizer_svc.schedule import build_optimizer
from recognizer_svc.train.distributed import Ranks, connect
from recognizer_svc.train.loop import Trainer
from tests.recognizer.full_time import Sizes, cached, random_clips
from tests.recognizer.toy_store import ACAR

SIZES = Sizes(slow=6, fast=3, vit=5, slow_frames=2, fast_frames=4, vit_frames=4, rows=5, columns=7, classes=4)
HEADS = {
    "acar": "head={kind: acar, reduce_channels: 8, context_channels: 8, depth: 1, dropout: 0}",
    "linear": "head={kind: linear}",
}
MODES = ("shared", "per_rank")

# Actors of each clip, for rank 0 and for rank 1: unequal clips and actors; clips without actors on rank 1; no clip on
# rank 1; one actor in all, so that the linear head's batch has no variance.
STEPS = [([3, 1], [5]), ([4, 1], [0, 0]), ([2, 2], []), ([1], [0]), ([1, 2], [3, 1])]


def part_of(step: int, rank: int | None) -> LabelledBatch:
    """A step's clips for a rank; None is one process that holds them all."""
    first, second = STEPS[step]
    start = 10 * step
    if rank is None:
        return cached(random_clips(first + second, SIZES, first=start))
    return cached(random_clips(second if rank else first, SIZES, first=start + (len(first) if rank else 0)))


def train(head_override: str, ranks: Ranks, rank: int | None, *, shared: bool) -> tuple[list[float], dict[str, Tensor]]:
    """Return each step's loss, and the trained head with its running statistics."""
    recipe = parse_recipe(ACAR, [head_override, "optimizer={kind: sgd, learning_rate: 0.1}"])
    torch.manual_seed(0)
    head = build_head(recipe.head, SIZES.shapes, SIZES.classes).double()
    if shared:
        share_statistics(head)
    optimizer = build_optimizer(recipe.optimizer, head.parameters())
    trainer = Trainer(head=head, model=ranks.wrap(head), optimizer=optimizer, loss=recipe.loss, ranks=ranks)
    losses = [trainer.step(part_of(step, rank), 0.1)[0].loss for step in range(len(STEPS))]
    return losses, head.state_dict()


ACTORS = torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
WEIGHTS = torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def gradient_of(rows: slice, *, shared: bool) -> Tensor:
    """Gradient of a weighted sum of normalised vectors with respect to the vectors, as a live backbone needs it."""
    norm = ActorBatchNorm(3).double()
    norm.shared = shared
    actor_NC = ACTORS[rows].clone().requires_grad_()
    (norm(actor_NC) * WEIGHTS[rows]).sum().backward()
    assert actor_NC.grad is not None
    return actor_NC.grad


def run_rank(rank: int, folder: str) -> None:
    """Run every scenario and leave what came of it in `folder`."""
    torch.set_num_threads(1)
    root = Path(folder)
    with connect("gloo", timeout_s=60, init_method=f"file://{root / 'rendezvous'}", rank=rank, world_size=2) as ranks:
        found: dict[str, object] = {
            f"{kind} {mode}": train(override, ranks, rank, shared=mode == "shared")
            for kind, override in HEADS.items()
            for mode in MODES
        }
        # Rank 0 holds all actors but one; then all of them, and rank 1 has none.
        for held in (4, 5):
            rows = slice(0, held) if rank == 0 else slice(held, 5)
            found[f"gradient {held}"] = gradient_of(rows, shared=True)
        torch.save(found, root / f"rank{rank}.pt")
