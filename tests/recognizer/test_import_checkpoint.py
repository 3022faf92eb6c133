"""Published checkpoints become our weight files: the same features and logits come out of the normal loaders."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from cache.backbones.architectures import build_without_weights, preset_config
from cache.backbones.load import load_backbone
from cache.backbones.slowfast.model import SlowFastConfig
from cache.backbones.vit.model import ViTConfig
from cache.backbones.vit.published import from_published
from recognizer_svc.heads import build_head
from recognizer_svc.heads.acar.config import AcarConfig
from recognizer_svc.heads.batch import FeatureShapes
from recognizer_svc.training.head_file import load_head_file
from recognizer_svc.training.import_checkpoint import Import, import_checkpoint
from stal_data.errors import InputError
from tests.recognizer.test_acar_head import pooled
from tests.recognizer.tiny_checkpoint import tiny_state
from tests.seeded import head_inputs, seeded_state_dict, slowfast_clip, vit_clip
from tests.tolerances import FEATURES, LOGITS

FIXTURES = {
    "slowfast": Path(__file__).parents[1] / "cache" / "fixtures" / "slowfast50_shapes.json",
    "vit": Path(__file__).parents[1] / "cache" / "fixtures" / "vitg_shapes.json",
    "head": Path(__file__).parent / "fixtures" / "head_shapes.json",
}
VIT = ("giant", ViTConfig(depth=2))  # of the giant's 40 blocks
# Every tensor of a whole checkpoint as the published code writes it, name -> shape.
WHOLE: dict[str, list[int]] = json.loads((FIXTURES["head"].with_name("published_checkpoint_shapes.json")).read_text())
PREFIXES = {"module.backbone.module.": "slowfast", "module.backbone.submodule.": "vit", "module.head.module.": "head"}
_LATER_BLOCK = re.compile(r"module\.backbone\.submodule\.blocks\.([2-9]|\d\d)\.")


def published(part: str) -> dict[str, torch.Tensor]:
    """The tensors of one part under published names."""
    return seeded_state_dict(json.loads(FIXTURES[part].read_text()))


def expected(part: str) -> dict[str, np.ndarray]:
    name = {"slowfast": "slowfast50_out.npz", "vit": "vitg_out.npz", "head": "head_out.npz"}[part]
    return dict(np.load(FIXTURES[part].with_name(name)))


def shapes_of(module: torch.nn.Module) -> dict[str, list[int]]:
    return {name: list(tensor.shape) for name, tensor in module.state_dict().items()}


def assert_close(actual: torch.Tensor, wanted: np.ndarray, tolerance: float) -> None:
    assert actual.shape == wanted.shape
    assert np.abs(actual.numpy() - wanted).max() <= tolerance * np.abs(wanted).max()


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Import:
    """A whole checkpoint as the published training saves it, imported."""
    tensors = {prefix + name: tensor for prefix, part in PREFIXES.items() for name, tensor in published(part).items()}
    state = {name: tensors[name] for name in WHOLE if not _LATER_BLOCK.match(name)}
    assert {name: list(tensor.shape) for name, tensor in state.items()} == {name: WHOLE[name] for name in state}
    folder = tmp_path_factory.mktemp("whole")
    momentum = {"state": {0: {"momentum_buffer": torch.ones(3)}}, "param_groups": [{"lr": 0.064, "params": [0]}]}
    torch.save(
        {"epoch": 12, "state_dict": state, "optimizer": momentum, "scheduler": {"milestones": [560, 580]}},
        folder / "ckpt_12.pth.tar",
    )
    imported = import_checkpoint(folder / "ckpt_12.pth.tar", "full", folder / "out", sizes={"vit": VIT})
    (folder / "ckpt_12.pth.tar").unlink()
    return imported


def test_every_tensor_of_a_whole_checkpoint_has_its_place(tmp_path):
    """All names of a published file, the giant's 40 blocks included, with fewer channels."""
    sizes = {
        "slowfast": SlowFastConfig(stem_channels=8, widths=(8, 16, 32, 64)),
        "vit": ViTConfig(channels=16, heads=2, mlp_channels=32),
    }
    shapes = {kind: shapes_of(build_without_weights(kind, config)) for kind, config in sizes.items()}
    bias = {name: shape for name, shape in shapes["vit"].items() if name.endswith("attn.qkv.bias")}
    for name, (size,) in bias.items():
        del shapes["vit"][name]
        shapes["vit"] |= {name.replace("qkv.bias", part): [size // 3] for part in ("q_bias", "v_bias")}
    shapes["vit"] |= {"fc_norm.weight": [16], "fc_norm.bias": [16], "head.weight": [7, 16], "head.bias": [7]}
    features = FeatureShapes.of_configs(sizes)
    section = AcarConfig(reduce_channels=16, context_channels=8, depth=2)
    shapes["head"] = shapes_of(build_head(section, features, num_classes=50))
    tensors = {
        prefix + name: tensor
        for prefix, part in PREFIXES.items()
        for name, tensor in seeded_state_dict(shapes[part]).items()
    }
    assert tensors.keys() == WHOLE.keys()
    torch.save({"epoch": 7, "state_dict": tensors}, tmp_path / "whole.pth.tar")
    named = {kind: ("slim", config) for kind, config in sizes.items()}
    imported = import_checkpoint(tmp_path / "whole.pth.tar", "full", tmp_path / "out", sizes=named)
    assert [len(file.loaded) for file in imported.files] == [660, 526 - 40 - 4, 24]
    assert imported.ignored == {"epoch": "beside the weights"}
    loaded = load_backbone("vit", weights=str(imported.files[1].path)).model
    wanted = tensors["module.backbone.submodule.blocks.39.attn.v_bias"]
    assert torch.equal(loaded.state_dict()["blocks.39.attn.qkv.bias"][-16:], wanted)


def test_the_small_checkpoint_of_other_tests_has_published_names_alone():
    assert {f"module.{name}" for name in tiny_state()} < WHOLE.keys()


def test_the_imported_slowfast_gives_the_published_features(whole):
    loaded = load_backbone("slowfast", weights=str(whole.files[0].path))
    assert loaded.spec.trained
    assert loaded.spec.weights == f"sha256:{whole.files[0].digest}"
    with torch.inference_mode():
        slow, fast = loaded.model(slowfast_clip()).values()
    assert_close(slow.mean(dim=2), expected("slowfast")["slow_pooled"], FEATURES)
    assert_close(fast.mean(dim=2), expected("slowfast")["fast_pooled"], FEATURES)


def test_the_imported_vit_is_the_published_one(whole):
    """That these tensors give the published features is shown in tests/cache/test_backbones_numerics.py."""
    loaded = load_backbone("vit", weights=str(whole.files[1].path))
    wanted = from_published(published("vit"), None)[0]
    state = loaded.model.state_dict()
    assert state.keys() == wanted.keys()
    assert all(torch.equal(state[name], tensor) for name, tensor in wanted.items())


@pytest.mark.slow
def test_the_imported_vit_gives_the_published_features(whole):
    loaded = load_backbone("vit", weights=str(whole.files[1].path))
    assert (loaded.spec.preset, loaded.spec.config["depth"]) == ("giant", 2)
    assert loaded.spec.weights == f"sha256:{whole.files[1].digest}"
    with torch.inference_mode():
        grid = loaded.model(vit_clip())
    assert_close(grid[:, :64].mean(dim=2), expected("vit")["pooled_first64"], FEATURES)


def test_the_imported_head_gives_the_published_logits(whole):
    info, state = load_head_file(whole.files[2].path)
    assert (info.num_classes, info.epoch, info.section.depth) == (50, 12, 2)
    assert info.backbones == {"slowfast": f"sha256:{whole.files[0].digest}", "vit": f"sha256:{whole.files[1].digest}"}
    head = build_head(info.section, info.shapes, info.num_classes).eval()
    head.load_state_dict(state)
    with torch.inference_mode():
        logits = head(pooled(*head_inputs()))
    assert_close(logits, expected("head")["eval_logits"], LOGITS)


def test_every_entry_of_the_file_is_accounted_for(whole):
    slowfast, vit, head = whole.files
    sizes = {part: len(json.loads(path.read_text())) for part, path in FIXTURES.items()}
    assert len(slowfast.loaded) == sizes["slowfast"]
    assert len(head.loaded) == sizes["head"]
    # One bias for q, k and v instead of two, in each of two blocks; four tensors of the classifier.
    assert len(vit.loaded) == sizes["vit"] - 2 - 4
    assert set(vit.ignored) == {"fc_norm.weight", "fc_norm.bias", "head.weight", "head.bias"}
    assert set(whole.ignored) == {"epoch", "optimizer", "scheduler"}
    assert whole.epoch == 12


def small_vit(**changes) -> dict[str, torch.Tensor]:
    """A ViT of the `tiny` preset under published names, the final norm as the pre-training calls it."""
    state = load_backbone("vit", weights="random:3", preset="tiny").model.state_dict()
    q, _, v = state.pop("blocks.0.attn.qkv.bias").chunk(3)
    published_names = state | {"blocks.0.attn.q_bias": q.clone(), "blocks.0.attn.v_bias": v.clone()}
    classifier = {"norm.weight": torch.ones(16), "norm.bias": torch.zeros(16), "head.weight": torch.ones(5, 16)}
    return published_names | classifier | changes


def import_small(path: Path, content: object, kind: str = "vit") -> Import:
    sizes = {part: ("tiny", preset_config(part, "tiny")) for part in ("slowfast", "vit")}
    torch.save(content, path)
    return import_checkpoint(path, kind, path.parent / "out", sizes=sizes)


def test_norm_may_stand_for_fc_norm(tmp_path):
    (file,) = import_small(tmp_path / "v.pth", {"module": small_vit()}).files
    assert set(file.ignored) == {"norm.weight", "norm.bias", "head.weight"}
    assert load_backbone("vit", weights=str(file.path)).spec.weights == f"sha256:{file.digest}"


def test_half_precision_tensors_become_float32(tmp_path):
    halves = {name: tensor.half() for name, tensor in small_vit().items()}
    (file,) = import_small(tmp_path / "v.pth", halves).files
    assert {item.dtype for item in load_backbone("vit", weights=str(file.path)).model.parameters()} == {torch.float32}


def test_all_that_is_wrong_is_listed_and_nothing_is_written(tmp_path):
    state = small_vit(**{"blocks.0.gamma_1": torch.ones(16), "patch_embed.proj.bias": torch.zeros(3)})
    state["blocks.0.norm1.bias"] = torch.zeros(16, dtype=torch.int32)
    del state["blocks.0.norm1.weight"], state["blocks.0.mlp.fc2.bias"]
    state["blocks.0.norm2.weight"][0] = torch.nan
    with pytest.raises(InputError) as caught:
        import_small(tmp_path / "v.pth", state)
    text = str(caught.value)
    assert "2 missing: blocks.0.norm1.weight, blocks.0.mlp.fc2.bias" in text
    assert "1 of another shape: patch_embed.proj.bias [3] instead of [16]" in text
    assert "1 of whole numbers where fractions are needed, or the other way round: blocks.0.norm1.bias" in text
    assert "1 not finite: blocks.0.norm2.weight" in text
    assert "1 unknown inside the network's own parts: blocks.0.gamma_1" in text
    assert not (tmp_path / "out").exists()


def test_the_parts_of_a_whole_checkpoint_are_checked_together(tmp_path):
    state = {f"module.backbone.submodule.{name}": tensor for name, tensor in small_vit().items()}
    state |= {
        "module.backbone.module.fast_bn1.bias": torch.zeros(3),
        "module.head.module.fc2.weight": torch.zeros(5, 4),
    }
    with pytest.raises(InputError) as caught:
        import_small(tmp_path / "f.pth", {"state_dict": state}, kind="full")
    assert "fast_bn1.bias [3] instead of [2]" in str(caught.value)
    assert "does not hold an ACAR head: conv_reduce.weight, conv1.weight" in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_counters_that_old_files_lack_are_zero_and_said(tmp_path):
    state = load_backbone("slowfast", weights="random:0", preset="tiny").model.state_dict()
    del state["fast_bn1.num_batches_tracked"]
    (file,) = import_small(tmp_path / "s.pth.tar", state | {"fc.weight": torch.ones(4, 20)}, kind="slowfast").files
    assert file.zeroed == ("fast_bn1.num_batches_tracked",)
    assert file.ignored == {"fc.weight": "no such part in this network"}
    assert load_backbone("slowfast", weights=str(file.path)).model.fast_bn1.num_batches_tracked == 0


@pytest.mark.parametrize(
    ("state", "kind", "message"),
    [
        ({"module.backbone.module.x": torch.ones(1)}, "slowfast", "whole checkpoint .*--kind full"),
        ({"blocks.0.norm1.weight": torch.ones(1)}, "full", "no whole checkpoint: .*--kind vit"),
        (
            {f"module.backbone.{part}.x": torch.ones(1) for part in ("module", "submodule")}
            | {"module.head.fc1.weight": torch.ones(1)},
            "full",
            r"no tensor is under head\.module\.; elsewhere are head\.fc1\.weight, other\. ",
        ),
        (
            {"layer1.weight": torch.ones(1)},
            "slowfast",
            r"holds no tensor of the slowfast backbone 'tiny'; .*layer1.weight",
        ),
    ],
)
def test_the_wrong_kind_says_which_one_is_right(tmp_path, state, kind, message):
    with pytest.raises(InputError, match=message):
        import_small(
            tmp_path / "c.pth", state | {"module.other": torch.ones(1)} if kind == "full" else state, kind=kind
        )
