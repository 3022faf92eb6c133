"""Weight files and random weights: what fits is loaded exactly, everything else is an error that says why."""

import json
import re
import resource
from io import BytesIO

import pytest
import torch
from safetensors.torch import load_file, save_file

from cache.backbones.architectures import preset_config
from cache.backbones.load import LoadedBackbone, load_backbone
from cache.backbones.weights import save_backbone, weights_digest
from cache.tensor_header import read_header
from stal_data.errors import InputError, NotFoundError, StalError


def save(path, backbone: LoadedBackbone, *, config=None) -> str:
    spec = backbone.spec
    return save_backbone(
        path,
        backbone.model,
        kind=spec.kind,
        preset=spec.preset,
        config=config or preset_config(spec.kind, spec.preset),
        provenance={"steps": 3},
    )


def bare(path, state, metadata=None):
    """A file from elsewhere, without our metadata."""
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, path, metadata=metadata)
    return str(path)


@pytest.fixture(params=["slowfast", "vit"])
def tiny(request) -> LoadedBackbone:
    return load_backbone(request.param, weights="random:7", preset="tiny")


def test_saved_backbone_comes_back_bit_for_bit(tiny, tmp_path):
    path = tmp_path / "weights.safetensors"
    digest = save(path, tiny)
    loaded = load_backbone(tiny.spec.kind, weights=str(path))
    assert loaded.spec.weights == f"sha256:{digest}" == f"sha256:{weights_digest(tiny.model.state_dict())}"
    assert loaded.spec.trained
    assert loaded.spec.preset == "tiny"
    assert (loaded.spec.height, loaded.spec.width) == (tiny.spec.height, tiny.spec.width)
    for name, tensor in tiny.model.state_dict().items():
        assert torch.equal(tensor, loaded.model.state_dict()[name])
    assert list(tmp_path.iterdir()) == [path]
    (tmp_path / "plain").touch()
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode  # readable by whom the umask says


def test_the_same_backbone_gives_the_same_file(tiny, tmp_path):
    save(tmp_path / "a.safetensors", tiny)
    save(tmp_path / "b.safetensors", tiny)
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


def test_a_file_keeps_its_configuration_when_the_preset_changes(tmp_path):
    """The numbers in the file build the model, so weights outlive a tuned preset."""
    from dataclasses import replace

    from cache.backbones.vit.model import VideoViT

    config = replace(preset_config("vit", "tiny"), depth=2)
    save_backbone(tmp_path / "w.safetensors", VideoViT(config), kind="vit", preset="tiny", config=config, provenance={})
    loaded = load_backbone("vit", weights=str(tmp_path / "w.safetensors"), preset="tiny")
    assert len(loaded.model.blocks) == 2
    assert loaded.spec.config["depth"] == 2


def test_loaded_backbone_is_frozen(tiny):
    assert not tiny.model.training
    assert not any(item.requires_grad for item in tiny.model.parameters())


def test_random_weights_are_seeded_and_marked_untrained(tiny):
    again = load_backbone(tiny.spec.kind, weights="random:7", preset="tiny")
    other = load_backbone(tiny.spec.kind, weights="random:8", preset="tiny")
    assert tiny.spec.weights == "random:7"
    assert not tiny.spec.trained
    assert weights_digest(again.model.state_dict()) == weights_digest(tiny.model.state_dict())
    assert weights_digest(other.model.state_dict()) != weights_digest(tiny.model.state_dict())
    assert again.spec == tiny.spec != other.spec


@pytest.mark.parametrize("weights", ["random:", "random:-1", "random:x", "random:1.5"])
def test_a_bad_seed_is_refused(weights):
    with pytest.raises(InputError, match=re.escape(weights)):
        load_backbone("vit", weights=weights, preset="tiny")


def test_an_unknown_preset_is_answered_with_the_closest():
    with pytest.raises(NotFoundError, match=r"'smal'.*Did you mean 'small'"):
        load_backbone("vit", weights="random:0", preset="smal")


def test_published_vit_layout_is_the_same_backbone(tmp_path):
    vit = load_backbone("vit", weights="random:3", preset="tiny")
    published = {"head.weight": torch.ones(5, 16), "fc_norm.weight": torch.ones(16)}
    for name, tensor in vit.model.state_dict().items():
        if name.endswith("qkv.bias"):
            q, k, v = tensor.chunk(3)
            assert not k.any()
            published[name.replace("qkv.bias", "q_bias")] = q.clone()
            published[name.replace("qkv.bias", "v_bias")] = v.clone()
        else:
            published[name] = tensor
    loaded = load_backbone("vit", weights=bare(tmp_path / "p.safetensors", published), preset="tiny")
    assert loaded.spec.weights == f"sha256:{weights_digest(vit.model.state_dict())}"


def test_half_precision_files_become_float32(tmp_path):
    vit = load_backbone("vit", weights="random:3", preset="tiny")
    halves = {name: tensor.bfloat16() for name, tensor in vit.model.state_dict().items()}
    loaded = load_backbone("vit", weights=bare(tmp_path / "h.safetensors", halves), preset="tiny")
    assert {item.dtype for item in loaded.model.parameters()} == {torch.float32}


def test_a_missing_file_says_what_to_give(tmp_path):
    with pytest.raises(NotFoundError, match=r"gone\.safetensors does not exist.*random:SEED"):
        load_backbone("vit", weights=str(tmp_path / "gone.safetensors"))


@pytest.mark.parametrize("damage", ["truncated", "empty", "text", "pickled"])
def test_a_corrupt_file_is_a_clear_error(tiny, tmp_path, damage):
    path = tmp_path / "w.safetensors"
    save(path, tiny)
    content = path.read_bytes()
    if damage == "pickled":
        torch.save(tiny.model.state_dict(), path)
    else:
        path.write_bytes({"truncated": content[: len(content) // 2], "empty": b"", "text": b"not weights"}[damage])
    with pytest.raises(InputError, match=r"not a complete safetensors file|is damaged: its sha256"):
        load_backbone(tiny.spec.kind, weights=str(path))


def test_a_header_whose_tensors_never_end_is_a_clear_error():
    header = b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 1e999]}}'
    with pytest.raises(InputError, match=r"'w' is damaged: its header does not read \(OverflowError"):
        read_header(BytesIO(len(header).to_bytes(8, "little") + header), "w")


def test_values_that_are_not_finite_are_refused(tiny, tmp_path):
    state = tiny.model.state_dict()
    name = next(iter(state))
    state[name] = torch.full_like(state[name], float("nan"))
    with pytest.raises(InputError, match=f"not finite in {re.escape(name)}"):
        load_backbone(tiny.spec.kind, weights=bare(tmp_path / "n.safetensors", state), preset="tiny")


def test_tensors_that_do_not_fit_are_listed(tiny, tmp_path):
    state = tiny.model.state_dict()
    first, second, *_ = state
    del state[first]
    state[second] = torch.zeros(3, 2)
    state["stray.weight"] = torch.zeros(1)
    with pytest.raises(InputError) as caught:
        load_backbone(tiny.spec.kind, weights=bare(tmp_path / "x.safetensors", state), preset="tiny")
    text = str(caught.value)
    assert f"1 missing: {first}" in text
    assert "1 unexpected: stray.weight" in text
    assert f"1 of another shape: {second} [3, 2] instead of" in text


def test_a_long_list_is_cut(tmp_path):
    state = {f"stray.{index}": torch.zeros(1) for index in range(100)}
    with pytest.raises(InputError, match=r"100 unexpected: .* and 92 more") as caught:
        load_backbone("vit", weights=bare(tmp_path / "x.safetensors", state), preset="tiny")
    assert len(str(caught.value)) < 1500


def test_the_other_kind_and_another_preset_are_refused(tiny, tmp_path):
    path = tmp_path / "w.safetensors"
    save(path, tiny)
    other = "vit" if tiny.spec.kind == "slowfast" else "slowfast"
    with pytest.raises(InputError, match=f"is a {tiny.spec.kind} backbone; a {other} one is asked for"):
        load_backbone(other, weights=str(path))
    with pytest.raises(InputError, match="has preset 'tiny'; 'small' is asked for"):
        load_backbone(tiny.spec.kind, weights=str(path), preset="small")


@pytest.mark.parametrize("metadata", ["{", json.dumps({"kind": "vit", "config": '{"depht": 3}'}), "[1]", '{"kind": 3}'])
def test_damaged_metadata_names_the_file(tmp_path, metadata):
    path = bare(tmp_path / "m.safetensors", {"x": torch.zeros(1)}, {"stal_backbone": metadata})
    with pytest.raises(InputError, match=r"m\.safetensors"):
        load_backbone("vit", weights=path)


def test_digest_sees_names_shapes_dtypes_and_values(tmp_path):
    base = {"a": torch.arange(6.0), "b": torch.zeros(2)}
    variants = [
        base,
        {"a": base["a"].reshape(2, 3), "b": base["b"]},
        {"a": base["a"].double(), "b": base["b"]},
        {"c": base["a"], "b": base["b"]},
        {"a": base["a"] + 1, "b": base["b"]},
        {"a": base["a"]},
    ]
    digests = [weights_digest(state) for state in variants]
    assert len(set(digests)) == len(variants)
    assert weights_digest(dict(reversed(base.items()))) == digests[0]
    save_file(base, tmp_path / "d.safetensors")
    assert weights_digest(load_file(tmp_path / "d.safetensors")) == digests[0]


def test_a_file_that_cannot_be_written_says_so(tiny, tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))  # as a full disk: no file grows beyond
    try:
        with pytest.raises(StalError, match=r"w\.safetensors' could not be written: File too large"):
            save(tmp_path / "w.safetensors", tiny)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(tmp_path.iterdir()) == []
