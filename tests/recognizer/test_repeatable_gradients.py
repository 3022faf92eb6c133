"""A step gives the same gradients each time, however many threads compute it."""

import pytest
import torch
from torch import nn

from recognizer_svc.heads.acar.config import AcarConfig
from recognizer_svc.heads.acar.model import AcarHead
from recognizer_svc.heads.batch import HeadBatch
from recognizer_svc.heads.relation.config import RelationConfig
from recognizer_svc.heads.relation.model import RelationHead
from tests.recognizer.feature_maps import feature_shapes, present

SHAPES = feature_shapes(slow=(16, 14, 14), fast=(8, 14, 14))
COUNTS = [60, 40]  # enough actors that torch shares the work among threads
HEADS = {
    "acar": lambda: AcarHead(AcarConfig(reduce_channels=16, context_channels=16, depth=1, dropout=0.0), SHAPES, 3),
    "relation": lambda: RelationHead(RelationConfig(channels=32, dropout=0.0), SHAPES, 3),
}


def crowd() -> HeadBatch:
    random = torch.Generator().manual_seed(0)
    corner = torch.rand(sum(COUNTS), 2, generator=random) * 0.5
    return HeadBatch(
        features=present(
            slow=torch.randn(len(COUNTS), 16, 14, 14, generator=random),
            fast=torch.randn(len(COUNTS), 8, 14, 14, generator=random),
        ),
        boxes_N4=torch.cat([corner, corner + 0.4], dim=1),
        clip_of_N=torch.repeat_interleave(torch.arange(len(COUNTS)), torch.tensor(COUNTS)),
    )


def gradients(head: nn.Module, batch: HeadBatch) -> dict[str, torch.Tensor]:
    head.zero_grad()
    head(batch).square().sum().backward()
    return {name: parameter.grad.clone() for name, parameter in head.named_parameters()}


@pytest.mark.parametrize("kind", HEADS)
def test_gradients_are_the_same_each_time(kind: str) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        torch.manual_seed(0)
        head, batch = HEADS[kind](), crowd()
        first = gradients(head, batch)
        for _ in range(5):
            again = gradients(head, batch)
            assert [name for name in first if not torch.equal(first[name], again[name])] == []
    finally:
        torch.set_num_threads(threads)
