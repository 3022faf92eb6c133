"""A whole checkpoint in the published layout, of the `tiny` presets: for tests of what is done with one."""

from pathlib import Path

import torch
from torch import Tensor

from cache.backbones.architectures import preset_config
from cache.backbones.load import load_backbone
from recognizer_svc.heads import build_head
from recognizer_svc.heads.acar.config import AcarConfig
from recognizer_svc.training.import_checkpoint import Import, import_checkpoint
from tests.recognizer.feature_maps import feature_shapes

HEAD = AcarConfig(reduce_channels=16, context_channels=12, depth=1)


def tiny_state(num_classes: int = 4, seed: int = 0) -> dict[str, Tensor]:
    """Tensors of both backbones and of a head under the names of a published checkpoint, without `module.`."""
    slowfast = load_backbone("slowfast", weights=f"random:{seed}", preset="tiny").model.state_dict()
    vit = load_backbone("vit", weights=f"random:{seed}", preset="tiny").model.state_dict()
    q, _, v = vit.pop("blocks.0.attn.qkv.bias").chunk(3)
    vit |= {"blocks.0.attn.q_bias": q.clone(), "blocks.0.attn.v_bias": v.clone()}
    vit |= {"fc_norm.weight": torch.ones(16), "head.weight": torch.ones(5, 16)}
    torch.manual_seed(seed)
    shapes = feature_shapes(slow=(16, 4, 6), fast=(4, 4, 6), vit=(16, 6, 8), vit_frames=2)
    head = build_head(HEAD, shapes, num_classes).state_dict()
    parts = {"backbone.module.": slowfast, "backbone.submodule.": vit, "head.module.": head}
    return {prefix + name: tensor for prefix, part in parts.items() for name, tensor in part.items()}


def write_checkpoint(path: Path, **options: int) -> Path:
    """As the published training saves it after epoch 12."""
    state = {f"module.{name}": tensor for name, tensor in tiny_state(**options).items()}
    torch.save({"epoch": 12, "state_dict": state, "optimizer": {"state": {}}, "scheduler": {"milestones": [5]}}, path)
    return path


def import_tiny(path: Path, output: Path) -> Import:
    sizes = {part: ("tiny", preset_config(part, "tiny")) for part in ("slowfast", "vit")}
    return import_checkpoint(path, "full", output, sizes=sizes)
