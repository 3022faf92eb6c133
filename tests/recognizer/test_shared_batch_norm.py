"""BatchNorm over two real gloo processes: with shared statistics they train what one process trains.

In float64, so that another order of sums is all that may differ, and dropout is off.
"""

import pytest
import torch
from torch import nn

from recognizer_svc.heads.batch_norm import ActorBatchNorm
from recognizer_svc.training.distributed import Ranks
from tests.recognizer.batch_norm_ranks import HEADS, STEPS, run_rank, train
from tests.recognizer.two_ranks import run_two_ranks
from tests.tolerances import TWO_RANKS, check


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    run_two_ranks(run_rank, str(folder))
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in (0, 1)]


@pytest.mark.parametrize("kind", HEADS)
def test_shared_statistics_train_the_head_of_one_process(two_ranks, kind):
    """With unequal clips and actors, with clips but no actors on one rank, and with no clip at all on it."""
    losses, state = train(kind, Ranks(), None, shared=False)
    assert len(losses) == len(STEPS)
    for found in two_ranks:
        found_losses, found_state = found[f"{kind} shared"]
        check(f"{kind}, losses", max(abs(a - b) for a, b in zip(found_losses, losses, strict=True)), TWO_RANKS)
        assert found_state.keys() == state.keys()
        differences = [float((found_state[name] - expected).abs().max()) for name, expected in state.items()]
        check(f"{kind}, weights and running statistics", max(differences), TWO_RANKS)
    for name, value in two_ranks[0][f"{kind} shared"][1].items():
        if "running" in name:  # every rank adds the same sums up
            assert torch.equal(value, two_ranks[1][f"{kind} shared"][1][name])


@pytest.mark.parametrize("kind", HEADS)
def test_statistics_of_each_rank_train_another_head(two_ranks, kind):
    """The published way, and proof that the comparison above can fail."""
    losses, _ = train(kind, Ranks(), None, shared=False)
    (first, first_state), (second, second_state) = (found[f"{kind} per_rank"] for found in two_ranks)
    assert first == pytest.approx(second)  # the loss is that of all ranks
    assert max(abs(a - b) for a, b in zip(first, losses, strict=True)) > 1e-4
    for name, value in first_state.items():
        if "running" in name:
            assert not torch.allclose(value, second_state[name]), name
        elif value.is_floating_point():  # weights still agree: gradients are averaged
            torch.testing.assert_close(value, second_state[name], rtol=0, atol=TWO_RANKS, msg=name)


def test_gradients_through_the_statistics_are_those_of_batch_norm():
    """One process against nn.BatchNorm1d; what two processes train above is compared with one."""
    random = torch.Generator().manual_seed(0)
    weight_NC = torch.randn(5, 3, dtype=torch.float64, generator=random)
    gradients = []
    first_NC = torch.randn(5, 3, dtype=torch.float64, generator=random)
    for norm in (ActorBatchNorm(3), nn.BatchNorm1d(3, affine=False)):
        actor_NC = first_NC.clone().requires_grad_()
        (norm.double()(actor_NC) * weight_NC).sum().backward()
        gradients.append(actor_NC.grad)
    torch.testing.assert_close(*gradients)
