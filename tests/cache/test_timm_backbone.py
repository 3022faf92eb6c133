"""Image models of timm as a backbone: what they compute, which files they take, and that heads use their maps."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from click.testing import CliRunner
from safetensors.torch import save_file

from cache.backbones.load import load_backbone
from cache.backbones.weights import save_backbone
from cache.feature_store import open_feature_set
from cache.precompute import PrecomputeOptions, precompute
from cache.store import Store
from cli.commands.precompute import precompute as precompute_command
from recognizer_svc.batching import head_batch
from recognizer_svc.heads.acar.config import AcarConfig
from recognizer_svc.heads.acar.model import AcarHead
from recognizer_svc.heads.batch import FeatureShapes
from recognizer_svc.heads.linear.config import LinearConfig
from recognizer_svc.heads.linear.model import LinearHead
from stal_data.dataset import Split
from stal_data.errors import InputError, NotFoundError
from stal_data.preprocess import MEAN, STD

MODELS = ("test_resnet", "test_vit")  # a convolutional one and one of tokens; timm made them for tests


@pytest.mark.parametrize("name", MODELS)
def test_the_map_is_the_models_own_on_four_frames(name: str) -> None:
    backbone = load_backbone("timm", weights="random:3", preset=name)
    size = (backbone.spec.height, backbone.spec.width)
    pixels_BTHW3 = torch.rand(2, 32, *size, 3, generator=torch.Generator().manual_seed(0))
    plain = timm.create_model(name, num_classes=0).eval()
    plain.load_state_dict({key.removeprefix("model."): value for key, value in backbone.model.state_dict().items()})
    own = plain.pretrained_cfg
    expected = []
    with torch.inference_mode():
        found = backbone.model(((pixels_BTHW3 - MEAN) / STD).permute(0, 4, 1, 2, 3))["timm"]
        for frame in (4, 12, 20, 28):
            frames_B3HW = pixels_BTHW3[:, frame].permute(0, 3, 1, 2)
            mean, std = (torch.tensor(own[key])[:, None, None] for key in ("mean", "std"))
            features = plain.forward_features((frames_B3HW - mean) / std)
            if features.ndim == 3:  # tokens, the class token first
                rows = int((features.shape[1] - plain.num_prefix_tokens) ** 0.5)
                features = features[:, plain.num_prefix_tokens :].transpose(1, 2).unflatten(2, (rows, rows))
            expected.append(features)
    torch.testing.assert_close(found, torch.stack(expected, dim=2), rtol=1e-4, atol=1e-4)
    assert tuple(found.shape[1:]) == backbone.model.config.maps["timm"]


def test_a_file_of_the_publisher_gives_the_same_backbone_without_its_classifier(tmp_path: Path) -> None:
    ours = load_backbone("timm", weights="random:3", preset="test_resnet")
    file = tmp_path / "model.safetensors"
    tensors = {key.removeprefix("model."): value for key, value in ours.model.state_dict().items()}
    save_file(tensors | {"fc.weight": torch.ones(10, 96), "fc.bias": torch.ones(10)}, file)
    published = load_backbone("timm", weights=str(file), preset="test_resnet")
    for name, tensor in ours.model.state_dict().items():
        assert torch.equal(published.model.state_dict()[name], tensor), name
    save_file({name: tensor for name, tensor in tensors.items() if not name.startswith("conv1")}, file)
    with pytest.raises(InputError, match=r"13 missing: model\.conv1"):
        load_backbone("timm", weights=str(file), preset="test_resnet")


def test_a_file_cannot_have_a_model_fetched_from_elsewhere(tmp_path: Path) -> None:
    """The model's name is in the metadata of a weights file, which may be foreign."""
    ours = load_backbone("timm", weights="random:3", preset="test_resnet")
    file = tmp_path / "model.safetensors"
    config = replace(ours.model.config, model="hf-hub:timm/test_resnet")
    save_backbone(file, ours.model, kind="timm", preset="test_resnet", config=config, provenance={})
    with pytest.raises(NotFoundError, match="has no model 'hf-hub:timm/test_resnet'"):
        load_backbone("timm", weights=str(file))


def test_heads_are_fed_a_timm_model_alone_and_beside_slowfast(store: Store, split: Split) -> None:
    image_model = load_backbone("timm", weights="random:3", preset="test_vit")
    slowfast = load_backbone("slowfast", weights="random:0", preset="tiny")
    box = np.array([[0.1, 0.1, 0.6, 0.9]], np.float32)
    for backbones, channels in (([image_model], 64), ([image_model, slowfast], 84)):
        [features] = precompute(split, store, PrecomputeOptions(backbones=backbones))
        again = open_feature_set(store, split.dataset, split.name, spec=features.spec)
        shapes = FeatureShapes.of(again.spec, again.shapes)
        batch = head_batch(again.read([0, 1]), [box, box], shapes, again.key_frames[:2])
        linear = LinearHead(LinearConfig(), shapes, 3).eval()
        assert linear.fc.in_features == channels
        assert linear(batch).shape == (2, 3)
    alone = FeatureShapes.of(again.spec, again.shapes, ["timm"])
    acar = AcarHead(AcarConfig(reduce_channels=8, context_channels=8), alone, 3).eval()
    assert acar(batch).isfinite().all()
    with pytest.raises(InputError, match="slow 4x6, fast 4x6, timm 8x8; use backbone presets that belong together"):
        AcarHead(AcarConfig(), shapes, 3)


def run(*words: str) -> str:
    arguments = ["data", "--split", "train", "--store", "store", *words]
    done = CliRunner().invoke(precompute_command, arguments)
    assert done.exit_code != 0
    return done.output or str(done.exception)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "Name the weights of at least one backbone: --slowfast, --vit or --backbone"),
        (["--slowfast", "random:0", "--backbone", "slowfast:tiny=random:1"], "slowfast is named 2 times"),
        (["--vit-preset", "tiny"], "--vit-preset 'tiny' needs --vit WEIGHTS"),
        (["--vit", "random:0", "--statistics", "slow=full"], "no backbone has the map 'slow'; they have vit"),
        (["--vit", "random:0", "--statistics", "vit"], "'vit' must be full or MAP=STATISTIC"),
    ],
)
def test_choices_that_cannot_be_are_refused_before_anything_is_opened(words: list[str], message: str) -> None:
    assert message in run(*words).replace("\n", " ")


def test_nothing_is_downloaded_unasked() -> None:
    with pytest.raises(InputError, match=r"nothing is downloaded unasked.*--allow-download"):
        load_backbone("timm", weights=None, preset="test_resnet")
    with pytest.raises(InputError, match="Nobody offers weights of the vit backbone 'tiny'"):
        load_backbone("vit", weights=None, preset="tiny", may_download=True)


def test_models_that_there_are_not_are_refused() -> None:
    with pytest.raises(NotFoundError, match=r"has no model 'resnet81'\. Did you mean 'resnet"):
        load_backbone("timm", weights="random:0", preset="resnet81")
    with pytest.raises(NotFoundError, match="has no model 'hf-hub:timm/resnet18'"):
        load_backbone("timm", weights="random:0", preset="hf-hub:timm/resnet18")
    with pytest.raises(InputError, match="no default size"):
        load_backbone("timm", weights="random:0")
