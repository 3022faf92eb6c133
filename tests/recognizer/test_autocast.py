"""Training in bfloat16: every head learns, resumes and is scored in float32."""

from dataclasses import replace

import pytest
import torch

from recognizer_svc.data import LabelledBatch
from recognizer_svc.heads import build_head
from recognizer_svc.training.distributed import Ranks
from recognizer_svc.training.loop import Trainer
from recognizer_svc.training.recipe import parse_recipe
from recognizer_svc.training.run import train_run
from tests.recognizer.batch_norm_ranks import SIZES
from tests.recognizer.full_time import cached, random_clips
from tests.recognizer.joint_ranks import StopAfter
from tests.recognizer.run_results import assert_same, latest, predicted_map, values
from tests.recognizer.toy_store import ACAR
from tests.tolerances import AUTOCAST, check, of_the_largest

HEADS = {
    "acar": "head={kind: acar, reduce_channels: 16, context_channels: 12, depth: 1, dropout: 0}",
    "acar with all parts": "head={kind: acar, reduce_channels: 16, context_channels: 12, depth: 1, dropout: 0, "
    "standardise: true, pooling: mean_max, linear_skip: true}",
    "linear": "head={kind: linear}",
    "relation": "head={kind: relation, channels: 16, dropout: 0, linear_skip: true}",
    "relation by attention": "head={kind: relation, channels: 16, dropout: 0, relation: attention}",
}


def float32_batch() -> LabelledBatch:
    batch = cached(random_clips([3, 1, 0, 4, 2], SIZES, first=0))
    features = {name: values.float() for name, values in batch.head.features.items()}
    return replace(
        batch,
        head=replace(batch.head, features=features, boxes_N4=batch.head.boxes_N4.float()),
        targets_NC=batch.targets_NC.float(),
    )


@pytest.mark.parametrize("kind", HEADS)
def test_logits_loss_and_step_are_close_to_those_of_float32(kind):
    recipe, batch = parse_recipe(ACAR, [HEADS[kind]]), float32_batch()
    logits, losses, moves = [], [], []
    for autocast in (False, True):
        torch.manual_seed(0)
        head = build_head(recipe.head, SIZES.shapes, SIZES.classes)
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            logits.append(head.train()(batch.head).float().numpy())
        optimizer = torch.optim.SGD(head.parameters(), lr=1)
        trainer = Trainer(
            head=head, model=head, optimizer=optimizer, loss=recipe.loss, ranks=Ranks(), autocast=autocast
        )
        before = torch.nn.utils.parameters_to_vector(head.parameters()).detach()
        losses.append(trainer.step(batch, 1.0)[0].loss)
        moves.append((torch.nn.utils.parameters_to_vector(head.parameters()).detach() - before).numpy())
    check(f"{kind}, logits in bfloat16", of_the_largest(logits[1], logits[0]), AUTOCAST)
    check(f"{kind}, loss in bfloat16", abs(losses[1] - losses[0]), AUTOCAST)
    check(f"{kind}, gradients in bfloat16", of_the_largest(moves[1], moves[0]), 4 * AUTOCAST)
    assert (logits[0] != logits[1]).any()


@pytest.mark.parametrize("kind", HEADS)
def test_a_run_learns_resumes_exactly_and_is_scored_in_float32(new_run, kind):
    options = ["training.autocast=bf16", HEADS[kind], "training.epochs=3"]
    whole, parts = new_run("whole", options), new_run("parts", options)
    assert train_run(whole, Ranks())
    assert not train_run(parts, Ranks(), StopAfter(4))
    assert train_run(parts, Ranks())
    assert_same(latest(parts), latest(whole))
    losses = values(whole, "epoch", "loss")
    assert losses[-1] < 0.95 * losses[0]
    assert {tensor.dtype for tensor in latest(whole).head_state.values()} <= {torch.float32, torch.int64}
    assert predicted_map(whole) == pytest.approx(values(whole, "validation", "map")[-1], abs=1e-9)
