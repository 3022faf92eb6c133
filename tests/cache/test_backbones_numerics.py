"""Both backbones against numbers measured with the published code, and the exactness of their small relatives."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from cache.backbones.architectures import preset_config
from cache.backbones.load import load_backbone
from cache.backbones.slowfast.model import SlowFast, SlowFastConfig, slow_frame_indices
from cache.backbones.vit.model import VideoViT, ViTConfig
from cache.backbones.vit.published import from_published
from cache.backbones.weights import assign_state
from stal_data.errors import InputError
from tests.seeded import seeded_state_dict, slowfast_clip, vit_clip
from tests.tolerances import FEATURES, check, of_the_largest

FIXTURES = Path(__file__).parent / "fixtures"


def shapes(name: str) -> dict[str, list[int]]:
    return json.loads((FIXTURES / name).read_text())


def test_slowfast_r50_has_the_published_names_and_shapes():
    model = SlowFast(SlowFastConfig())
    assert {name: list(tensor.shape) for name, tensor in model.state_dict().items()} == shapes("slowfast50_shapes.json")


def test_slowfast_r50_gives_the_published_numbers():
    model = SlowFast(SlowFastConfig()).eval()
    model.load_state_dict(seeded_state_dict(shapes("slowfast50_shapes.json")))
    with torch.inference_mode():
        slow, fast = model(slowfast_clip()).values()
    assert slow.shape == (1, 2048, 8, 4, 4)
    assert fast.shape == (1, 256, 32, 4, 4)
    expected = np.load(FIXTURES / "slowfast50_out.npz")
    check("slow", of_the_largest(slow.mean(dim=2), expected["slow_pooled"]), FEATURES)
    check("fast", of_the_largest(fast.mean(dim=2), expected["fast_pooled"]), FEATURES)


def test_giant_vit_gives_the_published_numbers_from_the_published_layout():
    """Two of the 40 blocks at full width; the file also holds the classifier, which has no place in a backbone."""
    with torch.device("meta"):
        model = VideoViT(ViTConfig(depth=2)).eval()
    state = from_published(seeded_state_dict(shapes("vitg_shapes.json")), None)[0]
    assign_state(model, state, "fixture")
    with torch.inference_mode():
        grid = model(vit_clip())["vit"]
    assert grid.shape == (1, 1408, 16, 16, 16)
    expected = np.load(FIXTURES / "vitg_out.npz")
    check("vit", of_the_largest(grid[:, :64].mean(dim=2), expected["pooled_first64"]), FEATURES)
    exact = grid.double()
    check("vit mean", of_the_largest(exact.mean(dim=(2, 3, 4)), expected["mean"]), FEATURES)
    check("vit square", of_the_largest(exact.square().sum(dim=(2, 3, 4)), expected["sumsq"]), FEATURES)


def test_published_layout_puts_zeros_in_the_bias_of_k():
    state = {"blocks.0.attn.q_bias": torch.ones(4), "blocks.0.attn.v_bias": torch.full((4,), 2.0)}
    state["head.weight"] = torch.ones(3, 4)
    converted = from_published(state, None)[0]
    assert converted.keys() == {"blocks.0.attn.qkv.bias"}
    assert converted["blocks.0.attn.qkv.bias"].tolist() == [1.0] * 4 + [0.0] * 4 + [2.0] * 4


def test_giant_preset_is_the_published_one():
    with torch.device("meta"):
        model = VideoViT(ViTConfig())
    assert len(model.blocks) == 40
    assert model.config.token_grid == (16, 16, 16)
    assert sum(item.numel() for item in model.parameters()) == pytest.approx(1.01e9, rel=0.01)


def test_slow_pathway_spans_the_whole_clip():
    assert slow_frame_indices(32, 4) == torch.linspace(0, 31, 8).long().tolist() == [0, 4, 8, 13, 17, 22, 26, 31]


@pytest.mark.parametrize(("kind", "preset"), [(k, p) for k in ("slowfast", "vit") for p in ("tiny", "small")])
def test_presets_put_out_the_maps_they_announce(kind, preset):
    backbone = load_backbone(kind, weights="random:0", preset=preset)
    clip = torch.randn(2, 3, 32, backbone.spec.height, backbone.spec.width, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        outputs = backbone.model(clip)
        alone = backbone.model(clip[1:])
    assert {name: tuple(item.shape[1:]) for name, item in outputs.items()} == preset_config(kind, preset).maps
    for name, both in outputs.items():
        torch.testing.assert_close(both[1:], alone[name])  # clips of a batch do not touch each other
        assert both.std() > 0.01


@pytest.mark.parametrize(
    ("slowfast", "vit"),
    [
        ("r50", "giant"),
        ("r50", "narrow"),
        ("small", "small"),
        ("tiny", "tiny"),
        ("r101-nonlocal", "videomae-giant"),
        ("mmaction2-r50-4x16", "videomae-giant"),
    ],
)
def test_paired_presets_fit_the_head(slowfast, vit):
    """The head's 3x3 convolution without padding turns the ViT grid into SlowFast's."""
    rows, columns = preset_config("slowfast", slowfast).grid
    assert preset_config("vit", vit).grid == (rows + 2, columns + 2)


@pytest.mark.parametrize(
    ("config", "values", "message"),
    [
        (SlowFastConfig, {"num_frames": 30}, "num_frames 30"),
        (SlowFastConfig, {"strides": (1, 2)}, "strides"),
        (SlowFastConfig, {"stem_channels": 60}, "width 60"),
        (ViTConfig, {"height": 225}, "height 225"),
        (ViTConfig, {"heads": 15}, "heads 15"),
    ],
)
def test_impossible_configurations_name_the_field(config, values, message):
    with pytest.raises(InputError, match=message):
        config(**values)
