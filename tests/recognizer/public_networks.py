"""SlowFast and VideoMAE once more, as PySlowFast, mmaction2, VideoMAE and transformers name their tensors.

Written from the public code, with plain functions and without the project's networks. A network that is run for the
first time draws its tensors, so a run is also what makes the file. B clips, C channels, T frames, H, W rows, columns.
"""

import zlib
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
KINETICS = ((0.45, 0.45, 0.45), (0.225, 0.225, 0.225))


def normalised(pixels_BCTHW: Tensor, mean_and_std: tuple[tuple[float, ...], tuple[float, ...]]) -> Tensor:
    mean, std = (torch.tensor(values)[:, None, None, None] for values in mean_and_std)
    return (pixels_BCTHW - mean) / std


@dataclass
class Tensors:
    """state: what was drawn, by name; each tensor depends on its name alone."""

    state: dict[str, Tensor] = field(default_factory=dict)

    def draw(self, name: str, *shape: int, around: float = 0.0, scale: float = 0.1) -> Tensor:
        if name not in self.state:
            generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
            self.state[name] = around + scale * torch.randn(shape, generator=generator)
        return self.state[name]

    def convolve(self, name: str, x: Tensor, channels: int, kernel: tuple[int, int, int], **options: object) -> Tensor:
        inputs = x.shape[1] * kernel[0] * kernel[1] * kernel[2]
        weight = self.draw(f"{name}.weight", channels, x.shape[1], *kernel, scale=inputs**-0.5)
        return functional.conv3d(x, weight, **options)  # type: ignore[arg-type]

    def norm(self, name: str, x: Tensor) -> Tensor:
        """BatchNorm in evaluation."""
        size = x.shape[1]
        self.state.setdefault(f"{name}.num_batches_tracked", torch.tensor(7))
        return functional.batch_norm(
            x,
            self.draw(f"{name}.running_mean", size),
            self.draw(f"{name}.running_var", size, around=1.0).abs_(),
            self.draw(f"{name}.weight", size, around=1.0),
            self.draw(f"{name}.bias", size),
        )

    def linear(self, name: str, x: Tensor, channels: int) -> Tensor:
        weight = self.draw(f"{name}.weight", channels, x.shape[-1])
        return functional.linear(x, weight, self.draw(f"{name}.bias", channels))

    def layer_norm(self, name: str, x: Tensor) -> Tensor:
        size = x.shape[-1]
        weight, bias = self.draw(f"{name}.weight", size, around=1.0), self.draw(f"{name}.bias", size)
        return functional.layer_norm(x, (size,), weight, bias, 1e-6)


@dataclass(frozen=True, kw_only=True)
class SlowFastNames:
    """How a code calls its layers; block: of a path (slow, fast), a stage from 1 and a block from 0."""

    stem: Callable[[str], tuple[str, str]]
    lateral: Callable[[int], tuple[str, str]]
    layer: Callable[[str, int, int, int], tuple[str, str]]
    shortcut: Callable[[str, int, int], tuple[str, str]]


def _pathway(path: str) -> str:
    return "pathway0" if path == "slow" else "pathway1"


def _py_layer(path: str, stage: int, block: int, layer: int) -> tuple[str, str]:
    name = f"s{stage + 1}.{_pathway(path)}_res{block}.branch2.{'abc'[layer]}"
    return name, f"{name}_bn"


def _py_shortcut(path: str, stage: int, block: int) -> tuple[str, str]:
    name = f"s{stage + 1}.{_pathway(path)}_res{block}.branch1"
    return name, f"{name}_bn"


def _mm(name: str) -> tuple[str, str]:
    return f"backbone.{name}.conv", f"backbone.{name}.bn"


PYSLOWFAST = SlowFastNames(
    stem=lambda path: (f"s1.{_pathway(path)}_stem.conv", f"s1.{_pathway(path)}_stem.bn"),
    lateral=lambda stage: (f"s{stage}_fuse.conv_f2s", f"s{stage}_fuse.bn"),
    layer=_py_layer,
    shortcut=_py_shortcut,
)
MMACTION2 = SlowFastNames(
    stem=lambda path: _mm(f"{path}_path.conv1"),
    lateral=lambda stage: _mm(f"slow_path.{'conv1' if stage == 1 else f'layer{stage - 1}'}_lateral"),
    layer=lambda path, stage, block, layer: _mm(f"{path}_path.layer{stage}.{block}.conv{layer + 1}"),
    shortcut=lambda path, stage, block: _mm(f"{path}_path.layer{stage}.{block}.downsample"),
)

BLOCKS, WIDTHS = (1, 1, 3, 1), (8, 8, 16, 16)
"""Of the small network: blocks of each stage, and channels inside those of the slow path; fast has a quarter."""


@dataclass(frozen=True, kw_only=True)
class SlowFastSettings:
    """In the words of the codes.

    temporal: how many blocks of stage 3 have convolutions over time. nonlocal_blocks: of stage 3.
    """

    alpha: int
    fusion_kernel: int
    lateral_norm: bool
    dilation: int
    temporal: int = 3
    nonlocal_blocks: tuple[int, ...] = ()


def slowfast(
    file: Tensors, names: SlowFastNames, settings: SlowFastSettings, slow_clip: Tensor, clip: Tensor
) -> dict[str, Tensor]:
    """Return the maps behind the last stage."""
    paths = {"slow": slow_clip, "fast": clip}
    for path, width, frames in (("slow", 8, 1), ("fast", 2, 5)):
        conv, bn = names.stem(path)
        out = file.convolve(conv, paths[path], width, (frames, 7, 7), stride=(1, 2, 2), padding=(frames // 2, 3, 3))
        paths[path] = functional.max_pool3d(file.norm(bn, out).relu(), (1, 3, 3), (1, 2, 2), (0, 1, 1))
    for stage in (1, 2, 3, 4):
        conv, bn = names.lateral(stage)
        fast, kernel = paths["fast"], settings.fusion_kernel
        stride, padding = (settings.alpha, 1, 1), (kernel // 2, 0, 0)
        lateral = file.convolve(conv, fast, 2 * fast.shape[1], (kernel, 1, 1), stride=stride, padding=padding)
        if settings.lateral_norm:
            lateral = file.norm(bn, lateral).relu()
        paths["slow"] = torch.cat([paths["slow"], lateral], dim=1)
        for path, share in (("slow", 1), ("fast", 4)):
            for block in range(BLOCKS[stage - 1]):
                paths[path] = _bottleneck(file, names, settings, path, stage, block, paths[path], share)
    return paths


def _bottleneck(
    file: Tensors,
    names: SlowFastNames,
    settings: SlowFastSettings,
    path: str,
    stage: int,
    block: int,
    x: Tensor,
    share: int,
) -> Tensor:
    width = WIDTHS[stage - 1] // share
    frames = 3 if (path == "fast" or stage > 2) and not (stage == 3 and block >= settings.temporal) else 1
    stride = 2 if stage in (2, 3) and block == 0 else 1
    dilation = settings.dilation if stage == 4 else 1
    layers = [names.layer(path, stage, block, layer) for layer in range(3)]
    out = file.norm(layers[0][1], file.convolve(layers[0][0], x, width, (frames, 1, 1), padding=(frames // 2, 0, 0)))
    spatial = {"stride": (1, stride, stride), "padding": (0, dilation, dilation), "dilation": (1, dilation, dilation)}
    out = file.norm(layers[1][1], file.convolve(layers[1][0], out.relu(), width, (1, 3, 3), **spatial))
    out = file.norm(layers[2][1], file.convolve(layers[2][0], out.relu(), 2 * width, (1, 1, 1)))
    if block == 0 and (stride == 2 or x.shape[1] != 2 * width):
        conv, bn = names.shortcut(path, stage, block)
        x = file.norm(bn, file.convolve(conv, x, 2 * width, (1, 1, 1), stride=(1, stride, stride)))
    out = (out + x).relu()
    if stage == 3 and path == "slow" and block in settings.nonlocal_blocks:
        out = _nonlocal(file, f"s4.pathway0_nonlocal{block}", out)
    return out


def _nonlocal(file: Tensors, name: str, x: Tensor) -> Tensor:
    inner, pooled = x.shape[1] // 2, functional.max_pool3d(x, 2)

    def convolve(part: str, inputs: Tensor, channels: int) -> Tensor:
        bias = file.draw(f"{name}.conv_{part}.bias", channels)
        return file.convolve(f"{name}.conv_{part}", inputs, channels, (1, 1, 1), bias=bias)

    theta, phi, g = (
        convolve(part, inputs, inner).flatten(2) for part, inputs in (("theta", x), ("phi", pooled), ("g", pooled))
    )
    weights = torch.einsum("nct,ncp->ntp", theta, phi) / phi.shape[2]
    taken = torch.einsum("ntg,ncg->nct", weights, g).unflatten(2, x.shape[2:])
    return x + file.norm(f"{name}.bn", convolve("out", taken, x.shape[1]))


VIDEOMAE = {
    "patch": "patch_embed.proj",
    "norm1": "blocks.{}.norm1",
    "norm2": "blocks.{}.norm2",
    "attention": "blocks.{}.attn",
    "proj": "blocks.{}.attn.proj",
    "fc1": "blocks.{}.mlp.fc1",
    "fc2": "blocks.{}.mlp.fc2",
}
TRANSFORMERS = {
    "patch": "embeddings.patch_embeddings.projection",
    "norm1": "encoder.layer.{}.layernorm_before",
    "norm2": "encoder.layer.{}.layernorm_after",
    "attention": "encoder.layer.{}.attention.attention",
    "proj": "encoder.layer.{}.attention.output.dense",
    "fc1": "encoder.layer.{}.intermediate.dense",
    "fc2": "encoder.layer.{}.output.dense",
}


def videomae(file: Tensors, names: dict[str, str], prefix: str, clip: Tensor, *, heads: int, channels: int) -> Tensor:
    """Return what the last of two blocks puts out, [B, channels, T/2, H/16, W/16]. clip: the frames that it sees."""
    patch = prefix + names["patch"]
    bias = file.draw(f"{patch}.bias", channels)
    grid = file.convolve(patch, clip, channels, (2, 16, 16), stride=(2, 16, 16), bias=bias)
    x = grid.flatten(2).transpose(1, 2)
    x = x + torch.tensor([_position(place, channels) for place in range(x.shape[1])])
    for block in (0, 1):
        name = {part: prefix + text.format(block) for part, text in names.items()}
        x = x + file.linear(
            name["proj"], _attention(file, name["attention"], file.layer_norm(name["norm1"], x), heads), channels
        )
        hidden = functional.gelu(file.linear(name["fc1"], file.layer_norm(name["norm2"], x), 2 * channels))
        x = x + file.linear(name["fc2"], hidden, channels)
    return x.transpose(1, 2).reshape(grid.shape)


def _position(place: int, channels: int) -> list[float]:
    angles = [place / 10000 ** (2 * (channel // 2) / channels) for channel in range(channels)]
    values = torch.tensor(angles, dtype=torch.float64)
    return torch.where(torch.arange(channels) % 2 == 0, values.sin(), values.cos()).tolist()


def _attention(file: Tensors, name: str, x: Tensor, heads: int) -> Tensor:
    channels = x.shape[-1]
    q_bias, v_bias = (file.draw(f"{name}.{part}_bias", channels) for part in "qv")
    if name.endswith(".attn"):
        weights = file.draw(f"{name}.qkv.weight", 3 * channels, channels).chunk(3)
    else:
        weights = tuple(file.draw(f"{name}.{part}.weight", channels, channels) for part in ("query", "key", "value"))
    biases = (q_bias, torch.zeros(channels), v_bias)
    q, k, v = (
        functional.linear(x, weight, bias).unflatten(2, (heads, -1)).transpose(1, 2)
        for weight, bias in zip(weights, biases, strict=True)
    )
    products = (q @ k.transpose(2, 3)) * (channels // heads) ** -0.5
    return (products.softmax(dim=-1) @ v).transpose(1, 2).flatten(2)
