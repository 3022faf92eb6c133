"""The linear baseline: linear in an actor's own region, blind to everybody else."""

import torch
from torch.nn import BatchNorm1d
from torchvision.ops import roi_align

from recognizer_svc.heads.batch import HeadBatch
from recognizer_svc.heads.linear.config import LinearConfig
from recognizer_svc.heads.linear.model import LinearHead
from tests.recognizer.feature_maps import feature_shapes, present

# The maps need not have one size: each is cut out on its own grid.
SHAPES = feature_shapes(slow=(6, 5, 7), fast=(3, 5, 7), vit=(4, 7, 9), vit_frames=2)


def make_batch(counts: list[int], seed: int = 0) -> HeadBatch:
    random = torch.Generator().manual_seed(seed)
    corner = torch.rand(sum(counts), 2, generator=random) * 0.5
    return HeadBatch(
        features=present(
            slow=torch.randn(len(counts), 6, 5, 7, generator=random),
            fast=torch.randn(len(counts), 3, 5, 7, generator=random),
            vit=torch.randn(len(counts), 4, 7, 9, generator=random),
            vit_moments=torch.zeros(len(counts), 2, 4),
        ),
        boxes_N4=torch.cat([corner, corner + 0.4], dim=1),
        clip_of_N=torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts, dtype=torch.int64)),
    )


def test_equals_a_plain_computation_box_by_box():
    torch.manual_seed(0)
    head = LinearHead(LinearConfig(standardise=True), SHAPES, 3).train()
    batch = make_batch([2, 3])
    vectors = []
    for box, clip in zip(batch.boxes_N4, batch.clip_of_N.tolist(), strict=True):
        parts = []
        for features in (batch.features["slow"], batch.features["fast"], batch.features["vit"]):
            rows, columns = features.shape[2:]
            scaled = box * torch.tensor([columns, rows, columns, rows])
            parts.append(roi_align(features[clip : clip + 1], [scaled[None]], 7).amax((2, 3))[0])
        vectors.append(torch.cat(parts))
    norm = BatchNorm1d(13, affine=False)
    expected = head.fc(norm(torch.stack(vectors)))
    torch.testing.assert_close(head(batch), expected)
    torch.testing.assert_close(head.norm.running_var, norm.running_var)


def test_an_actor_does_not_depend_on_the_others():
    torch.manual_seed(0)
    head = LinearHead(LinearConfig(), SHAPES, 3).eval()
    batch = make_batch([3])
    alone = HeadBatch(
        features=batch.features,
        boxes_N4=batch.boxes_N4[1:2],
        clip_of_N=batch.clip_of_N[1:2],
    )
    torch.testing.assert_close(head(batch)[1:2], head(alone))


def test_a_training_batch_of_one_or_no_actor_works():
    head = LinearHead(LinearConfig(), SHAPES, 3).train()
    for counts in ([1], [0], []):
        logits = head(make_batch(counts))
        assert logits.shape == (sum(counts), 3)
        assert torch.isfinite(logits).all()
        head.zero_grad()
        logits.sum().backward()
        assert head.fc.weight.grad is not None
