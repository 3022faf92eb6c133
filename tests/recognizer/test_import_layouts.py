"""Files of PySlowFast, mmaction2, VideoMAE and transformers: the networks that come out compute what theirs do."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import timm
import torch
from click.testing import CliRunner
from safetensors.torch import save_file
from torch import Tensor

from cache.backbones.architectures import config_values, preset_config
from cache.backbones.load import LoadedBackbone, load_backbone
from cache.backbones.registry import BackboneConfig
from cache.backbones.vit.presets import PRESETS as VIT_PRESETS
from cache.spec import FeatureSpec
from cli.commands.weights import weights as weights_command
from recognizer_svc.training.import_checkpoint import Import, import_checkpoint
from stal_data.errors import InputError
from tests.recognizer.public_networks import (
    IMAGENET,
    KINETICS,
    MMACTION2,
    PYSLOWFAST,
    TRANSFORMERS,
    VIDEOMAE,
    SlowFastSettings,
    Tensors,
    normalised,
    slowfast,
    videomae,
)
from tests.tolerances import FEATURES, check, of_the_largest

PIXELS = torch.rand(1, 3, 32, 48, 48, generator=torch.Generator().manual_seed(3))
CLIPS = normalised(PIXELS, KINETICS)  # as precompute hands them over


def imported(path: Path, content: object, kind: str, preset: str, config: BackboneConfig) -> Import:
    if path.suffix == ".safetensors":
        save_file(content, path)
    else:
        torch.save(content, path)
    return import_checkpoint(path, kind, path.parent / "out", sizes={kind: (preset, config)})


def loaded(done: Import) -> LoadedBackbone:
    [file] = done.files
    return load_backbone(file.path.stem, weights=str(file.path))


def small_slowfast(preset: str, nonlocal_blocks: tuple[int, ...] = ()) -> BackboneConfig:
    """The preset at the sizes of the small network; whatever else distinguishes it stays."""
    config = preset_config("slowfast", preset)
    return replace(
        config,
        **{"height": 48, "width": 48, "stem_channels": 8, "beta_inverse": 4, "expansion": 2},
        **{"blocks": (1, 1, 3, 1), "widths": (8, 8, 16, 16), "nonlocal_blocks": nonlocal_blocks},
        temporal_blocks=None if config.temporal_blocks is None else (1, 1, 2, 1),
    )


SLOWFASTS = {
    "r50": SlowFastSettings(alpha=4, fusion_kernel=7, lateral_norm=True, dilation=2),
    "r50-4x16": SlowFastSettings(alpha=8, fusion_kernel=5, lateral_norm=True, dilation=2),
    "r101": SlowFastSettings(alpha=4, fusion_kernel=5, lateral_norm=True, dilation=2),
    "r101-nonlocal": SlowFastSettings(
        alpha=4, fusion_kernel=5, lateral_norm=True, dilation=2, temporal=2, nonlocal_blocks=(1,)
    ),
    "mmaction2-r50": SlowFastSettings(alpha=4, fusion_kernel=7, lateral_norm=False, dilation=1),
    "mmaction2-r50-4x16": SlowFastSettings(alpha=8, fusion_kernel=5, lateral_norm=False, dilation=1),
    "mmaction2-r101": SlowFastSettings(alpha=4, fusion_kernel=7, lateral_norm=False, dilation=1),
}


@cache
def _public_slowfast(preset: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    file, settings = Tensors(), SLOWFASTS[preset]
    if preset.startswith("mmaction2"):
        clips = normalised(PIXELS, IMAGENET)
        maps = slowfast(file, MMACTION2, settings, clips[:, :, :: settings.alpha], clips)
    else:
        spread = torch.linspace(0, 31, 32 // settings.alpha).long()
        maps = slowfast(file, PYSLOWFAST, settings, CLIPS[:, :, spread], CLIPS)
    return file.state, maps


def public_slowfast(preset: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the tensors of a file, and the maps of the network."""
    tensors, maps = _public_slowfast(preset)
    return dict(tensors), maps


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("preset", SLOWFASTS)
def test_a_slowfast_file_gives_the_maps_of_its_network(tmp_path: Path, preset: str, suffix: str) -> None:
    tensors, maps = public_slowfast(preset)
    classifier = {"head.projection.weight": torch.ones(4, 40), "cls_head.fc_cls.bias": torch.ones(4)}
    config = small_slowfast(preset, SLOWFASTS[preset].nonlocal_blocks)
    content = tensors | classifier
    wrapped = content if suffix == ".safetensors" else {"model_state": content, "epoch": 3}
    done = imported(tmp_path / f"file{suffix}", wrapped, "slowfast", preset, config)
    backbone = loaded(done)
    with torch.inference_mode():
        found = backbone.model(CLIPS)
    for name, expected in maps.items():
        check(name, of_the_largest(found[name], expected), FEATURES)
        assert tuple(expected.shape[1:]) == config.maps[name]
    [file] = done.files
    assert file.ignored == dict.fromkeys(classifier, "the classifier")
    assert file.zeroed == ()
    assert ("mean" in backbone.spec.config) == preset.startswith("mmaction2")


def small_vit(**changes: object) -> BackboneConfig:
    sizes = {"height": 48, "width": 48, "channels": 32, "depth": 2, "heads": 4, "mlp_channels": 64}
    return replace(preset_config("vit", "videomae-base"), **sizes | changes)


def public_vit(prefix: str) -> tuple[dict[str, Tensor], Tensor]:
    names = TRANSFORMERS if prefix in ("", "videomae.") else VIDEOMAE
    file = Tensors()
    frames = normalised(PIXELS, IMAGENET)[:, :, ::2]
    grid = videomae(file, names, prefix.removesuffix("-"), frames, heads=4, channels=32)
    return file.state, grid


LEFT_OUT = {
    "videomae.": ("videomae.layernorm.weight", "classifier.bias", "decoder.head.bias", "mask_token", "fc_norm.bias"),
    "": ("layernorm.weight", "layernorm.bias"),
    "model.": ("model.fc_norm.weight", "model.head.bias"),
    "encoder.": ("encoder.norm.weight", "decoder.blocks.0.norm1.bias", "encoder_to_decoder.weight", "mask_token"),
    "-": ("fc_norm.weight", "norm.bias", "head.weight"),
}
"""By what stands before a layout's names, what lies beside the encoder; `-` for nothing before VideoMAE's names."""


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("prefix", LEFT_OUT)
def test_a_videomae_file_gives_the_maps_of_its_network(tmp_path: Path, prefix: str, suffix: str) -> None:
    tensors, grid = public_vit(prefix)
    beside = {name: torch.ones(32) for name in LEFT_OUT[prefix]}
    config = small_vit()
    done = imported(tmp_path / f"file{suffix}", dict(tensors) | beside, "vit", "small", config)
    backbone = loaded(done)
    with torch.inference_mode():
        found = backbone.model(CLIPS)["vit"]
    check("vit", of_the_largest(found, grid), FEATURES)
    assert set(done.files[0].ignored) == set(beside)
    assert backbone.spec.config["mean"] == [0.485, 0.456, 0.406]
    assert backbone.spec.config["frame_step"] == 2


def test_names_of_the_running_transformers_are_read_too(tmp_path: Path) -> None:
    """Version 5 holds query.bias in memory, and writes q_bias in its files."""
    tensors, _ = public_vit("videomae.")
    config = small_vit()
    first = imported(tmp_path / "a.pth", tensors, "vit", "small", config)
    renamed = {
        name.replace(".q_bias", ".query.bias").replace(".v_bias", ".value.bias"): item for name, item in tensors.items()
    }
    second = imported(tmp_path / "b.pth", renamed, "vit", "small", config)
    assert first.files[0].digest == second.files[0].digest


@pytest.mark.parametrize(
    ("preset", "channels", "depth", "heads", "hidden", "patch"),
    [
        ("videomae-small", 384, 12, 6, 1536, 16),
        ("videomae-base", 768, 12, 12, 3072, 16),
        ("videomae-large", 1024, 24, 16, 4096, 16),
        ("videomae-huge", 1280, 32, 16, 5120, 16),
        ("videomae-giant", 1408, 40, 16, 6144, 14),
    ],
)
def test_videomae_presets_have_the_published_sizes(preset, channels, depth, heads, hidden, patch) -> None:
    config = preset_config("vit", preset)
    assert (config.channels, config.depth, config.heads, config.mlp_channels) == (channels, depth, heads, hidden)
    assert config.tubelet == (2, patch, patch)
    assert config.token_grid == (8, 224 // patch, 224 // patch)


Change = Callable[[dict[str, Tensor]], object]


def without(name: str) -> Change:
    return lambda tensors: tensors.pop(name)


def added(name: str, *shape: int) -> Change:
    return lambda tensors: tensors.update({name: torch.ones(shape)})


LAYER = "videomae.encoder.layer.0."
POSITIONS = "positions that are not the fixed table of this preset"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without(f"{LAYER}attention.attention.key.weight"), r"missing: blocks\.0\.attn\.qkv\.weight"),
        (without(f"{LAYER}attention.attention.v_bias"), r"missing: blocks\.0\.attn\.qkv\.bias"),
        (without(f"{LAYER}layernorm_after.bias"), r"missing: blocks\.0\.norm2\.bias"),
        (added(f"{LAYER}attention.attention.value.weight", 3, 2), r"missing: blocks\.0\.attn\.qkv\.weight"),
        (added(f"{LAYER}attention.attention.q_bias"), r"missing: blocks\.0\.attn\.qkv\.bias"),
        (added(f"{LAYER}intermediate.dense.bias", 3), r"of another shape: blocks\.0\.mlp\.fc1\.bias \[3\] instead of"),
        (added(f"{LAYER}lambda_1", 32), r"unknown inside the network's own parts: blocks\.0\.lambda_1"),
        (added("videomae.embeddings.cls_token", 1, 1, 32), r"unknown inside .* patch_embed\.cls_token"),
        (added("blocks.0.norm1.weight", 32), r"there twice, under different prefixes: .*layernorm_before\.weight"),
        (added("videomae.pos_embed", 1, 72, 32), POSITIONS),
        (added("videomae.pos_embed", 1, 1568, 32), POSITIONS),
    ],
)
def test_a_videomae_file_that_does_not_fit_says_what_is_wrong(tmp_path: Path, change: Change, message: str) -> None:
    tensors, _ = public_vit("videomae.")
    change(tensors)
    with pytest.raises(InputError, match=message):
        imported(tmp_path / "f.pth", tensors, "vit", "small", small_vit())
    assert not (tmp_path / "out").exists()


def test_fixed_positions_may_be_in_the_file(tmp_path: Path) -> None:
    tensors, _ = public_vit("model.")
    first = imported(tmp_path / "a.pth", tensors, "vit", "small", small_vit())
    tensors["model.pos_embed"] = loaded(first).model.position_NC[None]
    second = imported(tmp_path / "b.pth", tensors, "vit", "small", small_vit())
    assert second.files[0].digest == first.files[0].digest
    assert second.files[0].ignored == {"model.pos_embed": "the fixed positions, which are made anew"}


@pytest.mark.parametrize(
    ("of", "preset", "change", "message"),
    [
        ("mmaction2-r50", "r50", None, r"mmaction2's names.*minus 0\.485, .*subtracts 0\.45, .*such as mmaction2-r50"),
        ("r50", "mmaction2-r50", None, r"PySlowFast's names.*minus 0\.45, .*subtracts 0\.485, .*such as r50"),
        ("r50", "r50-4x16", None, r"Tconv1\.0\.weight \[4, 2, 7, 1, 1\] instead of \[4, 2, 5, 1, 1\]"),
        ("r101", "r101-nonlocal", None, r"slow_res3\.2\.conv1\.weight \[16, 32, 3, 1, 1\] instead of"),
        ("r101-nonlocal", "r101", None, r"unknown inside the network's own parts: slow_res3\.1\.non_local\.conv_theta"),
        ("r50", "r50", without("s5.pathway0_res0.branch1_bn.bias"), r"missing: slow_res4\.0\.downsample_bn\.bias"),
        ("r50", "r50", added("s3.pathway0_nonlocal1.bn.bias", 8), r"network that is not read: s3\.pathway0_nonlocal1"),
        ("r50", "r50", added("s4.pathway0_res0.branch2.se.fc1.bias", 8), r"own parts: slow_res3\.0\.branch2\.se"),
        (
            "mmaction2-r50",
            "mmaction2-r50",
            added("backbone.slow_path.layer1_lateral.bn.weight", 4),
            r"own parts: Tconv2\.1\.weight",
        ),
        (
            "mmaction2-r50",
            "mmaction2-r50",
            added("backbone.slow_path.neck.weight", 4),
            r"network that is not read: slow_path\.neck",
        ),
        ("mmaction2-r50", "mmaction2-r50", added("slow_path.conv1.bn.bias", 8), r"tensors twice"),
    ],
)
def test_a_slowfast_file_that_does_not_fit_says_what_is_wrong(
    tmp_path: Path, of: str, preset: str, change: Change | None, message: str
) -> None:
    tensors, _ = public_slowfast(of)
    if change:
        change(tensors)
    with pytest.raises(InputError, match=message):
        imported(tmp_path / "f.pth", {"model_state": tensors}, "slowfast", preset, small_slowfast(preset))


@pytest.mark.parametrize("prefix", ["videomae.", "", "model."])
def test_a_videomae_file_needs_its_own_normalisation(tmp_path: Path, prefix: str) -> None:
    tensors, _ = public_vit(prefix)
    config = small_vit(mean=(0.45, 0.45, 0.45), std=(0.225, 0.225, 0.225))
    with pytest.raises(InputError, match=r"minus 0\.485, .*subtracts 0\.45, .*preset videomae-SIZE"):
        imported(tmp_path / "f.pth", tensors, "vit", "small", config)


@pytest.mark.parametrize(
    ("settings", "refused"),
    [
        ("DATA: {MEAN: [0.45, 0.45, 0.45], STD: [0.225, 0.225, 0.225]}\nSLOWFAST: {ALPHA: 4}", None),
        ("free text of another code", None),
        ("{not: [yaml", None),
        ("DATA: {MEAN: [0.5, 0.5, 0.5]}", r"DATA\.MEAN \[0\.5, 0\.5, 0\.5\], but the preset has \[0\.45, "),
        ("DATA: {STD: [1, 1, 1]}", r"DATA\.STD"),
        ("DATA: {REVERSE_INPUT_CHANNEL: true}", r"DATA\.REVERSE_INPUT_CHANNEL True.*blue, green, red"),
        ("AVA: {BGR: true}", r"AVA\.BGR True"),
        ("SLOWFAST: {ALPHA: 8}", r"SLOWFAST\.ALPHA 8, but the preset has 4"),
    ],
)
def test_the_settings_beside_the_tensors_must_fit_the_preset(
    tmp_path: Path, settings: str, refused: str | None
) -> None:
    content = {"model_state": public_slowfast("r50")[0], "cfg": settings}
    if refused is None:
        assert imported(tmp_path / "f.pth", content, "slowfast", "r50", small_slowfast("r50")).files
        return
    with pytest.raises(InputError, match=refused):
        imported(tmp_path / "f.pth", content, "slowfast", "r50", small_slowfast("r50"))


def test_a_foreign_file_is_loaded_without_import_where_the_preset_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(VIT_PRESETS, "videomae-tiny", small_vit())
    tensors, _ = public_vit("videomae.")
    done = imported(tmp_path / "f.safetensors", tensors, "vit", "videomae-tiny", small_vit())
    direct = load_backbone("vit", weights=str(tmp_path / "f.safetensors"), preset="videomae-tiny")
    assert direct.spec == loaded(done).spec


def test_damaged_safetensors_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "f.safetensors"
    done = imported(path, public_vit("videomae.")[0], "vit", "small", small_vit())
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match="not a complete safetensors file"):
        import_checkpoint(path, "vit", tmp_path / "again", sizes={"vit": ("small", small_vit())})
    ours = bytearray(done.files[0].path.read_bytes())
    ours[-1] ^= 1
    path.write_bytes(ours)
    with pytest.raises(InputError, match="is damaged: its sha256"):
        import_checkpoint(path, "vit", tmp_path / "again", sizes={"vit": ("small", small_vit())})


def test_the_normalisation_is_part_of_the_spec_where_it_is_not_that_of_the_clips() -> None:
    """The ids are those that specs had before a backbone could have its own."""
    specs = [load_backbone(kind, weights="random:0", preset="tiny").spec for kind in ("slowfast", "vit")]
    spec = FeatureSpec(backbones=tuple(specs), decoder="pillow-1")
    assert spec.id == "e61861b1a1c48f44"
    own = replace(preset_config("slowfast", "tiny"), mean=(0.485, 0.456, 0.406))
    other = spec.with_backbone(replace(specs[0], config=config_values(own)))
    assert other.id != spec.id
    assert spec.diff(other) == ["slowfast.config.mean: absent / [0.485, 0.456, 0.406]"]
    assert FeatureSpec.from_dict(other.to_dict()) == other


@pytest.mark.parametrize("suffix", [".bin", ".safetensors"])
def test_a_timm_file_is_imported(tmp_path: Path, suffix: str) -> None:
    path, tensors = tmp_path / f"model{suffix}", timm.create_model("test_resnet", num_classes=10).state_dict()
    write: Callable[[Mapping[str, Tensor], Path], object] = save_file if suffix == ".safetensors" else torch.save
    write(tensors, path)
    command = ["import", str(path), "--kind", "timm", "--output", str(tmp_path / "out")]
    unnamed = CliRunner().invoke(weights_command, command)
    assert "has no published size; name the preset" in str(unnamed.exception)
    done = CliRunner().invoke(weights_command, [*command, "--timm-preset", "test_resnet"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert "fc.weight" in done.output
    backbone = load_backbone("timm", weights=str(tmp_path / "out" / "timm.safetensors"))
    assert backbone.spec.preset == "test_resnet"
    assert torch.equal(backbone.model.state_dict()["model.conv1.0.weight"], tensors["conv1.0.weight"])
