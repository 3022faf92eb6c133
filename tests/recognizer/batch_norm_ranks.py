"""What each of two gloo processes does for test_shared_batch_norm.py; a spawned process imports it."""

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from recognizer_svc.data import LabelledBatch
from recognizer_svc.heads import build_head
from recognizer_svc.heads.batch import HeadBatch
from recognizer_svc.heads.batch_norm import share_statistics
from recognizer_svc.training.distributed import Ranks, connect
from recognizer_svc.training.loop import Trainer
from recognizer_svc.training.recipe import parse_recipe
from recognizer_svc.training.schedule import build_optimizer
from tests.recognizer.full_time import Sizes, cached, random_clips
from tests.recognizer.toy_store import ACAR

SIZES = Sizes(slow=6, fast=3, vit=5, slow_frames=2, fast_frames=4, vit_frames=4, rows=5, columns=7, classes=4)
HEADS = {
    "acar": "head={kind: acar, reduce_channels: 8, context_channels: 8, depth: 1, dropout: 0}",
    "acar of all parts": (
        "head={kind: acar, reduce_channels: 8, context_channels: 8, depth: 1, dropout: 0, standardise: true, "
        "linear_skip: true}"
    ),
    "linear": "head={kind: linear}",
    "relation": "head={kind: relation, channels: 8, dropout: 0}",
    "neighbours": "head={kind: relation, channels: 8, dropout: 0}",
    "bank": "head={kind: relation, channels: 8, dropout: 0}",
    "live": "head={kind: linear}",
}
"""`live` trains a layer before the head, too, so gradients flow through the statistics."""
MODES = ("shared", "per_rank")

# Actors of each clip, for rank 0 and for rank 1: unequal clips and actors; clips without actors on rank 1; no clip on
# rank 1; one actor in all, so that the linear head's batch has no variance.
STEPS = [([3, 1], [5]), ([4, 1], [0, 0]), ([2, 2], []), ([1], [0]), ([1, 2], [3, 1])]


class LiveModel(nn.Module):
    """A head on maps that are computed in training, as those of a backbone that is trained with it."""

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.backbone = nn.Conv2d(SIZES.slow, SIZES.slow, 3, padding=1)
        self.head = head

    def forward(self, batch: HeadBatch) -> Tensor:
        logits_NC: Tensor = self.head(
            replace(batch, features={**batch.features, "slow": self.backbone(batch.features["slow"])})
        )
        return logits_NC


def with_neighbours(batch: HeadBatch) -> HeadBatch:
    """Let actors be seen in one key frame before and one after, or not; which follows from their boxes alone."""
    boxes_N4, clip_N = batch.boxes_N4, batch.clip_of_N
    row_NK = torch.stack([torch.where(boxes_N4[:, 0] < 0.3, clip_N, -1), clip_N], dim=1)
    return replace(batch, neighbour_boxes_NK4=torch.stack([boxes_N4 * 0.8, boxes_N4 * 0.9], 1), neighbour_row_NK=row_NK)


def with_bank(batch: HeadBatch) -> HeadBatch:
    """Let each clip have a bank of its own vectors, which follow from its maps; some have none."""
    maps = [batch.features[name].flatten(2) for name in SIZES.shapes.maps]
    bank_BC = torch.cat([part for values in maps for part in (values.mean(2), values.amax(2))], dim=1)
    seen_BV = torch.diag(batch.features["slow"][:, 0, 0, 0] > 0)
    return replace(
        batch, bank_VC=torch.cat([bank_BC, bank_BC * 0.5]), bank_seen_BV=torch.cat([seen_BV, seen_BV], dim=1)
    )


def part_of(step: int, rank: int | None) -> LabelledBatch:
    """A step's clips for a rank; None is one process that holds them all."""
    first, second = STEPS[step]
    start = 10 * step
    if rank is None:
        return cached(random_clips(first + second, SIZES, first=start))
    return cached(random_clips(second if rank else first, SIZES, first=start + (len(first) if rank else 0)))


def train(kind: str, ranks: Ranks, rank: int | None, *, shared: bool) -> tuple[list[float], dict[str, Tensor]]:
    """Return each step's loss, and what was trained with its running statistics."""
    recipe = parse_recipe(ACAR, [HEADS[kind], "optimizer={kind: sgd, learning_rate: 0.1}"])
    torch.manual_seed(0)
    channels = 2 * (SIZES.slow + SIZES.fast + SIZES.vit)
    around = {"neighbours": ({"neighbours": 1}, with_neighbours), "bank": ({"bank_channels": channels}, with_bank)}
    shapes, see = around.get(kind, ({}, lambda batch: batch))
    head = build_head(recipe.head, replace(SIZES.shapes, **shapes), SIZES.classes)
    head = (LiveModel(head) if kind == "live" else head).double()
    if shared:
        share_statistics(head)
    optimizer = build_optimizer(recipe.optimizer, head.parameters())
    trainer = Trainer(head=head, model=ranks.wrap(head), optimizer=optimizer, loss=recipe.loss, ranks=ranks)
    batches = [part_of(step, rank) for step in range(len(STEPS))]
    batches = [replace(batch, head=see(batch.head)) for batch in batches]
    losses = [trainer.step(batch, 0.1)[0].loss for batch in batches]
    return losses, head.state_dict()


def run_rank(rank: int, folder: str) -> None:
    """Run every scenario and leave what came of it in `folder`."""
    torch.set_num_threads(1)
    root = Path(folder)
    with connect("gloo", timeout_s=300, init_method=f"file://{root / 'rendezvous'}", rank=rank, world_size=2) as ranks:
        found: dict[str, object] = {
            f"{kind} {mode}": train(kind, ranks, rank, shared=mode == "shared") for kind in HEADS for mode in MODES
        }
        torch.save(found, root / f"rank{rank}.pt")
