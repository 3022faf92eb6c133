"""Training from cached means and moments is training from full-time features, step by step.

One side is what a run uses: head, loss, optimizer, schedule and step, from an `acar-published` recipe. The other side
is the published order of operations, written out plainly (plain_head.py, plain_training.py). Dropout is off on both.
"""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from recognizer_svc.data import LabelledBatch
from recognizer_svc.heads import build_head
from recognizer_svc.heads.acar.config import AcarConfig
from recognizer_svc.heads.acar.model import AcarHead
from recognizer_svc.heads.batch import HeadBatch
from recognizer_svc.training.distributed import Ranks
from recognizer_svc.training.loop import Trainer
from recognizer_svc.training.recipe import load_recipe
from recognizer_svc.training.schedule import build_optimizer, learning_rate
from tests.recognizer.full_time import FullTimeClips, Sizes, cached, random_clips
from tests.recognizer.plain_head import PlainHead
from tests.recognizer.plain_training import PlainSgd, plain_learning_rate, plain_loss
from tests.tolerances import FLOAT64, check

REDUCED = Sizes(slow=16, fast=4, vit=12, slow_frames=2, fast_frames=8, vit_frames=4, rows=6, columns=8, classes=18)
PUBLISHED = Sizes(
    slow=2048, fast=256, vit=1408, slow_frames=8, fast_frames=32, vit_frames=16, rows=14, columns=14, classes=50
)
STEPS_PER_EPOCH = 3
"""So that 20 steps see the warm-up, the full rate and both decays."""
ACTORS = ([3, 1], [2, 0, 4], [1], [2, 2], [5, 1, 1])
"""Of each clip of a step; the steps go through these again and again, with other clips each time."""


def clips_of(step: int, sizes: Sizes) -> FullTimeClips:
    return random_clips(ACTORS[step % len(ACTORS)], sizes, first=step * 10)


def losses(
    sizes: Sizes,
    *,
    steps: int,
    reduce_channels: int,
    context_channels: int,
    batch_of: Callable[[FullTimeClips], LabelledBatch] = cached,
) -> tuple[list[float], list[float]]:
    """Losses of each step: from the cache, and plain."""
    overrides = [f"head.reduce_channels={reduce_channels}", f"head.context_channels={context_channels}"]
    recipe = load_recipe("acar-published", ["head.dropout=0", *overrides])
    torch.manual_seed(0)
    head = build_head(recipe.head, sizes.shapes, sizes.classes).double()
    assert isinstance(head, AcarHead)
    optimizer = build_optimizer(recipe.optimizer, head.parameters())
    trainer = Trainer(head=head, model=head, optimizer=optimizer, loss=recipe.loss, ranks=Ranks())
    config = AcarConfig(reduce_channels=reduce_channels, context_channels=context_channels)
    plain = PlainHead(config, sizes.shapes, sizes.classes).double().train()
    plain.load_state_dict(head.state_dict())
    sgd = PlainSgd(plain)
    found, expected = [], []
    for step in range(steps):
        clips = clips_of(step, sizes)
        rate = learning_rate(
            recipe.schedule,
            recipe.optimizer.learning_rate,
            step=step,
            steps_per_epoch=STEPS_PER_EPOCH,
            epochs=recipe.training.epochs,
        )
        found.append(trainer.step(batch_of(clips), rate)[0].loss)
        loss = plain_loss(plain(*clips.inputs), clips.targets_NC)
        loss.backward()
        sgd.step(plain_learning_rate(step, STEPS_PER_EPOCH))
        expected.append(loss.item())
    return found, expected


def largest_difference(found: list[float], expected: list[float]) -> float:
    return max(abs(a - b) for a, b in zip(found, expected, strict=True))


def with_moments_of_the_mean(clips: FullTimeClips) -> LabelledBatch:
    """The mistake that a cache of time means invites: their variance is smaller than that of the grid."""
    batch = cached(clips)
    vit_BCHW = batch.head.features["vit"]
    wrong_B2C = torch.stack([vit_BCHW.mean((2, 3)), vit_BCHW.square().mean((2, 3))], dim=1)
    head: HeadBatch = replace(batch.head, features={**batch.head.features, "vit_moments": wrong_B2C})
    return replace(batch, head=head)


def test_twenty_steps_from_the_cache_are_those_from_full_time_features():
    found, expected = losses(REDUCED, steps=20, reduce_channels=24, context_channels=16)
    check("20 steps at reduced width", largest_difference(found, expected), FLOAT64)
    assert min(expected) < 0.8 * expected[0]  # it does learn, so later steps depend on earlier ones


def test_the_comparison_notices_wrong_moments():
    found, expected = losses(
        REDUCED, steps=20, reduce_channels=24, context_channels=16, batch_of=with_moments_of_the_mean
    )
    with pytest.raises(AssertionError, match="20 steps from wrong moments"):
        check("20 steps from wrong moments", largest_difference(found, expected), 1000 * FLOAT64)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_steps_at_the_published_width():
    """Minutes and 4.5 GiB on one core; what was measured: benchmarks/results/training-equivalence.md."""
    found, expected = losses(PUBLISHED, steps=4, reduce_channels=1024, context_channels=512)
    print("losses", expected)
    check("4 steps at the published width", largest_difference(found, expected), FLOAT64)
