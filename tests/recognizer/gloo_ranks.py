"""What each of two real gloo processes does for test_distributed.py; importable, so that a spawned process finds it."""

import shutil
from pathlib import Path

import torch

from recognizer_svc.data import LabelledBatch
from recognizer_svc.heads.acar.config import AcarConfig
from recognizer_svc.heads.acar.model import AcarHead
from recognizer_svc.heads.batch import HeadBatch
from recognizer_svc.losses.sigmoid import Sigmoid
from recognizer_svc.runs.run_dir import RunDir
from recognizer_svc.training.distributed import Ranks, connect
from recognizer_svc.training.loop import NonFiniteLossError, StopSignal, Trainer
from recognizer_svc.training.recipe import load_recipe
from recognizer_svc.training.run import Run, train_run
from recognizer_svc.training.run_checks import check_one_recipe
from stal_data.errors import ConflictError
from stal_data.keyframes import KeyFrame
from tests.recognizer.feature_maps import feature_shapes, present

SHAPES = feature_shapes(slow=(6, 5, 7), fast=(3, 5, 7), vit=None, vit_frames=0)


def make_trainer(ranks: Ranks) -> Trainer:
    torch.manual_seed(0)
    # Without BatchNorm (test_shared_batch_norm.py) and dropout, whose numbers depend on how clips fall to ranks.
    config = AcarConfig(reduce_channels=8, context_channels=8, depth=1, dropout=0.0)
    head = AcarHead(config, SHAPES, 3)
    optimizer = torch.optim.SGD(head.parameters(), lr=0.1, momentum=0.9, nesterov=True)
    return Trainer(head=head, model=ranks.wrap(head), optimizer=optimizer, loss=Sigmoid(), ranks=ranks)


def make_batch(counts: list[int], first_clip: int) -> LabelledBatch:
    """Clips numbered from `first_clip`; a clip's content depends on its number alone."""
    slow, fast, boxes, targets = [], [], [], []
    for clip, count in enumerate(counts, start=first_clip):
        random = torch.Generator().manual_seed(clip)
        slow.append(torch.randn(6, 5, 7, generator=random))
        fast.append(torch.randn(3, 5, 7, generator=random))
        corner = torch.rand(count, 2, generator=random) * 0.5
        boxes.append(torch.cat([corner, corner + 0.4], dim=1))
        targets.append((torch.rand(count, 3, generator=random) < 0.4).float())
    return LabelledBatch(
        head=HeadBatch(
            features=present(
                slow=torch.stack(slow) if slow else torch.empty(0, 6, 5, 7),
                fast=torch.stack(fast) if fast else torch.empty(0, 3, 5, 7),
                vit=None,
                vit_moments=None,
            ),
            boxes_N4=torch.cat([torch.empty(0, 4), *boxes]),
            clip_of_N=torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts, dtype=torch.int64)),
        ),
        targets_NC=torch.cat([torch.empty(0, 3), *targets]),
        keys=tuple(KeyFrame("v", 1000 * clip) for clip in range(first_clip, first_clip + len(counts))),
    )


# Actors of each clip, for rank 0 and for rank 1: unequal, none in the second step's rank 1, no clip in the third's.
STEPS = [([3, 1], [5, 2]), ([4, 1], [0, 0]), ([2, 2], []), ([1], [1])]


def both_parts(step: int) -> tuple[LabelledBatch, LabelledBatch, LabelledBatch]:
    """A step's clips for rank 0, for rank 1, and all of them for one process."""
    first, second = STEPS[step]
    start = step * 10
    return make_batch(first, start), make_batch(second, start + len(first)), make_batch(first + second, start)


def train_steps(trainer: Trainer, rank: int | None) -> list[float]:
    part = 2 if rank is None else rank
    return [trainer.step(both_parts(step)[part], 0.1)[0].loss for step in range(len(STEPS))]


def meet_again(run: RunDir, ranks: Ranks, root: Path) -> None:
    """Rank 1's folder lacks the checkpoint, as on another machine of a store in a bucket; then its recipe differs."""
    ranks.sum(torch.zeros(1))  # rank 0 has written its files
    mine = RunDir(run.root.with_name(f"again-{ranks.rank}"))
    shutil.copytree(run.root, mine.root)
    if ranks.rank == 1:
        shutil.rmtree(mine.root / "checkpoints")
    again = Run(mine, ranks)
    found: dict[str, object] = {"epochs": again.progress.epochs_done, "weights": again.head.state_dict()}
    if ranks.rank == 1:
        text = mine.recipe.read_text()
        mine.recipe.write_text(text.replace("box_jitter: 0.075", "box_jitter: 0.05"))
        assert mine.recipe.read_text() != text
    try:
        check_one_recipe(load_recipe(mine.recipe), ranks)
    except ConflictError as error:
        found["error"] = str(error)
    torch.save(found, root / f"again{ranks.rank}.pt")


def run_rank(rank: int, folder: str, run_dir: str) -> None:
    """Run every scenario and leave what came of it in `folder`."""
    torch.set_num_threads(1)
    root = Path(folder)
    with connect("gloo", timeout_s=300, init_method=f"file://{root / 'rendezvous'}", rank=rank, world_size=2) as ranks:
        found: dict[str, object] = {}
        trainer = make_trainer(ranks)
        found["losses"] = train_steps(trainer, rank)
        found["weights"] = {name: value.clone() for name, value in trainer.head.state_dict().items()}

        # Nobody has an actor: no step is taken, and the one after it works.
        totals, _ = trainer.step(make_batch([0], 90 + rank), 0.1)
        found["actors of an empty step"] = totals.actors
        found["weights after it"] = {name: value.clone() for name, value in trainer.head.state_dict().items()}
        trainer.step(both_parts(0)[rank], 0.1)

        trainer.stop = StopSignal(requested=rank == 1)
        found["stops"] = trainer.step(both_parts(0)[rank], 0.1)[1]
        trainer.stop = StopSignal()

        before = {name: value.clone() for name, value in trainer.head.state_dict().items()}
        broken = both_parts(0)[rank]
        if rank == 1:
            broken.head.features["slow"][0, 0, 0, 0] = float("nan")
        try:
            trainer.step(broken, 0.1)
        except NonFiniteLossError as error:
            found["error"] = str(error)
        found["changed by it"] = [n for n, v in trainer.head.state_dict().items() if not torch.equal(v, before[n])]
        torch.save(found, root / f"rank{rank}.pt")

        run = RunDir(Path(run_dir))
        train_run(run, ranks)
        meet_again(run, ranks, root)
        if rank == 0:
            head = Run(RunDir(Path(run_dir)), Ranks()).trainer.head  # restored from the checkpoint
            torch.save(head.state_dict(), root / "run.pt")
