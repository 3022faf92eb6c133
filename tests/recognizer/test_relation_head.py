"""The relation head: each actor's own region, and the strongest of its pairs with the others of its clip."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from recognizer_svc.heads.batch import HeadBatch
from recognizer_svc.heads.relation import model
from recognizer_svc.heads.relation.config import RelationConfig
from recognizer_svc.heads.relation.model import RelationHead, relative_geometry
from recognizer_svc.heads.roi import actor_regions
from tests.recognizer.feature_maps import feature_shapes
from tests.recognizer.test_linear_head import SHAPES, make_batch

COUNTS = [3, 1, 0, 4]
OPTIONS = [
    {"relation": relation, "pooling": pooling, "geometry": geometry, "linear_skip": skip}
    for relation, pooling, geometry, skip in (
        ("pairs", "mean_max", True, False),
        ("pairs", "max", False, True),
        ("attention", "mean", True, False),
        ("none", "mean_max", True, True),
    )
]


def make_head(**options: object) -> RelationHead:
    torch.manual_seed(0)
    return RelationHead(RelationConfig(channels=8, dropout=0.0, **options), SHAPES, 3)


def plain(head: RelationHead, batch: HeadBatch) -> Tensor:
    """The head with pairs, one actor and one pair at a time."""
    regions = [
        actor_regions(batch.features[name], batch.boxes_N4, batch.clip_of_N, 7) for name in ("slow", "fast", "vit")
    ]
    pooled = head.norm(
        torch.cat([part for region in regions for part in (region.mean((2, 3)), region.amax((2, 3)))], 1)
    )
    own = F.relu(head.own(pooled))
    logits = []
    for one, clip in enumerate(batch.clip_of_N.tolist()):
        best = torch.zeros(8)
        for other in torch.nonzero(batch.clip_of_N == clip).flatten().tolist():
            if other != one:
                geometry = relative_geometry(batch.boxes_N4[one][None, None], batch.boxes_N4[other][None, None])[0, 0]
                hidden = head.pair_own(own[one]) + head.pair_other(own[other]) + head.pair_geometry(geometry)
                best = torch.maximum(best, F.relu(head.pair(F.relu(hidden))))
        logits.append(head.classes(F.relu(head.joined(torch.cat([own[one], best])))))
    return torch.stack(logits)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("max_pairs", [2**18, 8, 1])
def test_equals_a_plain_computation_pair_by_pair(
    monkeypatch: pytest.MonkeyPatch, training: bool, max_pairs: int
) -> None:
    monkeypatch.setattr(model, "_MAX_PAIRS", max_pairs)
    batch, random = make_batch(COUNTS), torch.Generator().manual_seed(1)
    weights = torch.randn(sum(COUNTS), 3, generator=random)
    gradients = []
    for compute in (lambda head: head(batch), lambda head: plain(head, batch)):
        head = make_head().train(training)
        logits = compute(head)
        (logits * weights).sum().backward()
        gradients.append((logits, {name: parameter.grad for name, parameter in head.named_parameters()}))
    torch.testing.assert_close(gradients[0], gradients[1])
    with torch.no_grad():
        torch.testing.assert_close(make_head().train(training)(batch), gradients[1][0])


@pytest.mark.parametrize("options", OPTIONS)
def test_clips_do_not_see_each_other(options: dict[str, object]) -> None:
    head, batch = make_head(**options).eval(), make_batch(COUNTS)
    together = head(batch)
    for clip, start in ((0, 0), (1, 3), (3, 4)):
        rows = slice(start, start + COUNTS[clip])
        alone = HeadBatch(
            features={name: values[clip : clip + 1] for name, values in batch.features.items()},
            boxes_N4=batch.boxes_N4[rows],
            clip_of_N=torch.zeros(COUNTS[clip], dtype=torch.int64),
        )
        torch.testing.assert_close(head(alone), together[rows])


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("counts", [[1], [0], [], [2, 2]])
def test_every_batch_gives_every_parameter_a_gradient(options: dict[str, object], counts: list[int]) -> None:
    """Else a rank without actors would leave the others waiting."""
    head = make_head(**options).train()
    logits = head(make_batch(counts))
    logits.sum().backward()
    assert logits.shape == (sum(counts), 3)
    assert torch.isfinite(logits).all()
    assert all(parameter.grad is not None for parameter in head.parameters())


def test_geometry_says_where_the_other_is() -> None:
    box = torch.tensor([[[0.2, 0.2, 0.4, 0.6]]])
    others = torch.tensor([[[0.2, 0.2, 0.4, 0.6], [0.5, 0.2, 0.9, 0.4], [0.3, 0.2, 0.5, 0.6], [0.0, 0.0, 0.0, 0.0]]])
    same, right, half, empty = relative_geometry(box, others)[0]
    torch.testing.assert_close(same, torch.tensor([0, 0, 0, 0, 1.0]))
    torch.testing.assert_close(right, torch.tensor([2.0, -0.25, math.log(2), -math.log(2), 0]))
    torch.testing.assert_close(half, torch.tensor([0.5, 0, 0, 0, 1 / 3]))
    assert torch.isfinite(empty).all()


def test_any_maps_will_do() -> None:
    shapes = feature_shapes(slow=(6, 5, 7))
    head = RelationHead(RelationConfig(channels=8), shapes, 3).eval()
    batch = make_batch([2])
    only_slow = HeadBatch(features={"slow": batch.features["slow"]}, boxes_N4=batch.boxes_N4, clip_of_N=batch.clip_of_N)
    assert head(only_slow).shape == (2, 3)
