"""The ACAR head against the published numbers and against a plain head without any shortcut."""

import json
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from recognizer_svc.heads.acar.config import AcarConfig
from recognizer_svc.heads.acar.model import HR2O, AcarHead
from recognizer_svc.heads.batch import FeatureShapes, HeadBatch
from recognizer_svc.losses.pose_softmax import PoseSoftmax
from stal_data.errors import InputError
from tests.recognizer.feature_maps import feature_shapes, kept
from tests.recognizer.full_time import pooled
from tests.recognizer.plain_head import PlainHead
from tests.seeded import head_inputs, seeded_state_dict
from tests.tolerances import GRADIENT_NORMS, LOGITS, LOSS, check, of_the_largest

FIXTURES = Path(__file__).parent / "fixtures"
SHAPES = feature_shapes(slow=(2048, 14, 14), fast=(256, 14, 14), vit=(1408, 16, 16), vit_frames=16)
POSES = PoseSoftmax()


@pytest.fixture(scope="module", params=["cached", pytest.param("full-time", marks=pytest.mark.slow)])
def published(request) -> dict[str, object]:
    """The published head on the published inputs, once: it has 44 M parameters.

    From the cache's means and moments; and from the full-time features by the plain head, which shows that the plain
    head is the published one: no more of the product than the other runs.
    """
    slow, fast, vit, rois_N5 = head_inputs()
    cached = request.param == "cached"
    inputs = (cached_batch(slow, fast, vit, rois_N5),) if cached else (slow, fast, vit, rois_N5)
    with torch.device("meta"):  # initial weights would be replaced at once
        head = (AcarHead if cached else PlainHead)(AcarConfig(dropout=0.0), SHAPES, 50)
    shapes = json.loads((FIXTURES / "head_shapes.json").read_text())
    names = {name: list(tensor.shape) for name, tensor in head.state_dict().items()}
    head.load_state_dict(seeded_state_dict(shapes), assign=True)
    expected = dict(np.load(FIXTURES / "head_out.npz"))
    head.eval()
    with torch.no_grad():
        eval_logits = head(*inputs)
    head.train()
    train_logits = head(*inputs)
    loss = POSES.total(train_logits, torch.from_numpy(expected["targets"])) / len(train_logits)
    loss.backward()
    # In float64: torch's float32 norm of 17 M values is off by 8e-4 itself.
    norms = {name: parameter.grad.double().norm().item() for name, parameter in head.named_parameters()}
    return {
        "path": request.param,
        "expected": expected,
        "names": names,
        "shapes": shapes,
        "eval": eval_logits,
        "train": train_logits.detach(),
        "loss": loss.item(),
        "norms": norms,
    }


def cached_batch(slow: Tensor, fast: Tensor, vit: Tensor, rois_N5: Tensor) -> HeadBatch:
    """What precompute keeps of full-time features, before it is rounded."""
    return HeadBatch(
        features=kept(slow=slow, fast=fast, vit=vit),
        boxes_N4=rois_N5[:, 1:],
        clip_of_N=rois_N5[:, 0].long(),
    )


def test_a_published_heads_weights_fit(published):
    assert published["names"] == published["shapes"]


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_logits_equal_the_published_ones(published, mode):
    expected = published["expected"][f"{mode}_logits"]
    check(f"logits, {mode} mode, {published['path']}", of_the_largest(published[mode], expected), LOGITS)


def test_loss_scores_and_gradients_equal_the_published_ones(published):
    expected = published["expected"]
    check(f"loss, {published['path']}", abs(published["loss"] / float(expected["loss"]) - 1), LOSS)
    found = POSES.scores(published["eval"]).numpy()
    np.testing.assert_allclose(found, expected["scores_eval"], atol=LOGITS)
    gradients = json.loads((FIXTURES / "head_grads.json").read_text())
    assert published["norms"].keys() == gradients.keys()
    difference = max(abs(norm / gradients[name] - 1) for name, norm in published["norms"].items())
    check(f"gradient norms, {published['path']}", difference, GRADIENT_NORMS)


PARTS = {"published": {}, "all": {"pooling": "mean_max", "standardise": True, "linear_skip": True}}


def small_head(*, slowfast: bool, vit: bool, parts: str = "published") -> tuple[AcarConfig, FeatureShapes, int]:
    shapes = feature_shapes(
        slow=(6, 5, 7) if slowfast else None,
        fast=(3, 5, 7) if slowfast else None,
        vit=(5, 7, 9) if vit else None,
        vit_frames=4,
    )
    return AcarConfig(reduce_channels=10, context_channels=8, depth=2, dropout=0.0, **PARTS[parts]), shapes, 4


def small_case(*, slowfast: bool, vit: bool, actors: list[int], seed: int = 0, parts: str = "published"):
    """Narrow full-time features on a 5x7 grid in float64, where shortcuts and reference must agree to rounding."""
    random = torch.Generator().manual_seed(seed)
    clips = len(actors)

    def features(channels: int, time: int, border: int = 0) -> Tensor:
        grid = (5 + border, 7 + border)
        return torch.randn(clips, channels, time, *grid, generator=random, dtype=torch.float64) * 1.5 + 0.4

    slow, fast = (features(6, 2), features(3, 8)) if slowfast else (None, None)
    grid = features(5, 4, border=2) if vit else None
    rois = []
    for clip, count in enumerate(actors):
        for _ in range(count):
            x, y, width, height = torch.rand(4, generator=random).mul(0.45).add(0.02).tolist()
            rois.append([clip, x, y, x + width, y + height])
    torch.manual_seed(seed)
    head = AcarHead(*small_head(slowfast=slowfast, vit=vit, parts=parts)).double()
    return head, (slow, fast, grid, torch.tensor(rois, dtype=torch.float64))


@pytest.mark.parametrize(("slowfast", "vit"), [(True, True), (True, False), (False, True)])
@pytest.mark.parametrize(
    ("actors", "parts"), [([3, 0, 5], "published"), ([1], "published"), ([2, 1, 1, 4], "published"), ([3, 0, 5], "all")]
)
def test_training_equals_the_plain_head(slowfast, vit, actors, parts):
    head, inputs = small_case(slowfast=slowfast, vit=vit, actors=actors, parts=parts)
    plain = PlainHead(*small_head(slowfast=slowfast, vit=vit, parts=parts)).double()
    plain.load_state_dict(head.state_dict())
    expected = plain.train()(*inputs)
    found = head.train()(pooled(*inputs))
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-10)

    weights = torch.randn(found.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    (found * weights).sum().backward()
    (expected * weights).sum().backward()
    wanted = dict(plain.named_parameters())
    for name, parameter in head.named_parameters():
        torch.testing.assert_close(parameter.grad, wanted[name].grad, rtol=1e-8, atol=1e-9, msg=name)
    # The unbiased running variance counts B * T * H * W values of the full grid, not of its time mean.
    buffers = dict(head.named_buffers())
    assert len(buffers) == 3 * (vit + ("standardise" in PARTS[parts]) + ("linear_skip" in PARTS[parts]))
    for name, expected_buffer in plain.named_buffers():
        torch.testing.assert_close(buffers[name], expected_buffer, msg=name)


@pytest.mark.parametrize("parts", PARTS)
def test_evaluation_equals_the_plain_head(parts):
    head, inputs = small_case(slowfast=True, vit=True, actors=[2, 3], parts=parts)
    plain = PlainHead(*small_head(slowfast=True, vit=True, parts=parts)).double()
    plain.load_state_dict(head.state_dict())
    for _ in range(3):
        head.train()(pooled(*inputs))
        plain.train()(*inputs)
    expected = plain.eval()(*inputs)
    torch.testing.assert_close(head.eval()(pooled(*inputs)), expected, rtol=1e-9, atol=1e-10)


def test_a_clips_logits_do_not_depend_on_the_other_clips():
    head, (slow, fast, grid, rois) = small_case(slowfast=True, vit=True, actors=[3, 0, 5, 1])
    head.eval()
    together = head(pooled(slow, fast, grid, rois))
    for clip in (0, 2, 3):
        mine = rois[:, 0] == clip
        alone = rois[mine].clone()
        alone[:, 0] = 0
        parts = (feature[clip : clip + 1] for feature in (slow, fast, grid))
        torch.testing.assert_close(head(pooled(*parts, alone)), together[mine])


def test_another_actor_of_the_clip_changes_the_logits():
    head, (slow, fast, grid, rois) = small_case(slowfast=True, vit=True, actors=[3])
    head.eval()
    with_all, without_last = head(pooled(slow, fast, grid, rois)), head(pooled(slow, fast, grid, rois[:2]))
    assert (with_all[:2] - without_last).abs().max() > 1e-4


@pytest.mark.parametrize("clips", [0, 2])
def test_a_batch_without_actors_gives_no_logits_and_zero_gradients(clips):
    head, (slow, fast, grid, _) = small_case(slowfast=True, vit=True, actors=[1, 1])
    logits = head.train()(pooled(slow[:clips], fast[:clips], grid[:clips], torch.empty(0, 5, dtype=torch.float64)))
    assert logits.shape == (0, 4)
    logits.sum().backward()
    for name, parameter in head.named_parameters():
        assert parameter.grad is not None, name
        assert not parameter.grad.any(), name


class Kernels(TorchDispatchMode):
    """Notes the attention kernels that torch chooses."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if "attention" in (name := func.name()):
            self.names.add(name)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("people", [1, 7])
def test_attention_takes_the_fused_kernel_of_a_cpu(people):
    """The plain one would hold a matrix of all pairs at each position."""
    maps_NCHW = torch.randn(people, 8, 5, 6, requires_grad=True)
    same_clip_NN = torch.eye(people, dtype=torch.bool)
    with Kernels() as kernels:
        HR2O(8, dropout=0.0)(maps_NCHW, same_clip_NN).sum().backward()
    assert kernels.names == {
        "aten::_scaled_dot_product_flash_attention_for_cpu",
        "aten::_scaled_dot_product_flash_attention_for_cpu_backward",
    }


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of all results that are still held, and remembers the most."""

    def __init__(self) -> None:
        super().__init__()
        self._held: dict[int, int] = {}
        self.most = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for value in result if isinstance(result, tuple | list) else (result,):
            if isinstance(value, Tensor) and id(storage := value.untyped_storage()) not in self._held:
                self._held[id(storage)] = storage.nbytes()
                weakref.finalize(storage, self._held.pop, id(storage))
        self.most = max(self.most, sum(self._held.values()))
        return result


def test_a_crowd_takes_at_most_two_megabytes_a_person():
    """With the published sizes where memory depends on people; the maps are small."""
    people = 100
    shapes = feature_shapes(slow=(64, 14, 14), fast=None, vit=None, vit_frames=0)
    corner_N2 = torch.rand(people, 2, generator=torch.Generator().manual_seed(0)) * 0.5
    batch = HeadBatch(
        features={"slow": torch.randn(1, 64, 14, 14)},
        boxes_N4=torch.cat([corner_N2, corner_N2 + 0.3], dim=1),
        clip_of_N=torch.zeros(people, dtype=torch.int64),
    )
    head = AcarHead(AcarConfig(), shapes, 50).eval()
    with LiveBytes() as live, torch.no_grad():
        assert head(batch).isfinite().all()
    # Maps of all pairs would take 737 MB.
    assert 0 < live.most < people * 2_000_000


def test_maps_that_do_not_belong_together_are_refused():
    shapes = feature_shapes(slow=(6, 5, 7), fast=(3, 5, 7), vit=(5, 7, 8), vit_frames=2)
    with pytest.raises(InputError, match=r"slow 5x7, fast 5x7, vit 5x6; use backbone presets that belong together"):
        AcarHead(AcarConfig(), shapes, 4)


def test_maps_that_are_too_small_are_refused():
    shapes = feature_shapes(slow=(6, 2, 7), fast=(3, 2, 7), vit=None, vit_frames=0)
    with pytest.raises(InputError, match="2x7; the ACAR head needs at least 3x3"):
        AcarHead(AcarConfig(), shapes, 4)
