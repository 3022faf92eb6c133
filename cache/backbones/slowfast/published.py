"""The published layouts of SlowFast, turned into the names of `SlowFast`.

The files of the published method have these names already; PySlowFast (today, and in its first files, of Caffe2) and
mmaction2 have names of their own.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from cache.backbones.fitting import split_off
from cache.backbones.normalisation import CLIP_MEAN, IMAGENET_MEAN, Colours
from cache.backbones.slowfast.model import SlowFastConfig
from stal_data.errors import InputError
from stal_data.yaml_text import load_yaml

PREFIX = "backbone.module."
"""Of SlowFast's tensors in a whole published checkpoint, after the DataParallel prefix of them all."""


@dataclass(frozen=True, kw_only=True)
class _Layout:
    """The files of one training code.

    parts: how the names of the backbone's tensors begin. names: patterns and what takes their place, in order.
    mean: that of the code's pixels.
    """

    code: str
    parts: tuple[str, ...]
    names: Mapping[str, str]
    mean: Colours
    preset: str


_CAFFE2_STATE = re.compile(r"_momentum$|^lr$|^model_iter$")

_LAYOUTS = (
    _Layout(
        code="PySlowFast",
        parts=("s1.", "s2.", "s3.", "s4.", "s5.", "s1_", "s2_", "s3_", "s4_"),
        names={
            r"^s1\.pathway0_stem\.(conv|bn)": r"slow_\g<1>1",
            r"^s1\.pathway1_stem\.(conv|bn)": r"fast_\g<1>1",
            **{rf"^s{stage + 1}\.pathway0_res(\d+)\.": rf"slow_res{stage}.\1." for stage in range(1, 5)},
            **{rf"^s{stage + 1}\.pathway1_res(\d+)\.": rf"fast_res{stage}.\1." for stage in range(1, 5)},
            r"^s4\.pathway0_nonlocal(\d+)\.": r"slow_res3.\1.non_local.",
            r"^s(\d)_fuse\.conv_f2s": r"Tconv\1.0",
            r"^s(\d)_fuse\.bn": r"Tconv\1.1",
            r"\.branch1_bn\.": ".downsample_bn.",
            r"\.branch1\.": ".downsample.0.",
            **{rf"\.branch2\.{letter}_bn\.": f".bn{number}." for number, letter in enumerate("abc", start=1)},
            **{rf"\.branch2\.{letter}\.": f".conv{number}." for number, letter in enumerate("abc", start=1)},
        },
        mean=CLIP_MEAN,
        preset="r50 or r101",
    ),
    _Layout(
        code="PySlowFast in Caffe2",
        parts=(
            "conv1_",
            "t_conv1_",
            "res_conv1_",
            "t_res",
            "t_pool1_",
            *(f"res{stage}_" for stage in range(2, 6)),
            "nonlocal_",
        ),
        names={
            r"^conv1_": "slow_conv1.",
            r"^t_conv1_": "fast_conv1.",
            r"^res_conv1_bn_": "slow_bn1.",
            r"^t_res_conv1_bn_": "fast_bn1.",
            r"^t_pool1_subsample_(bn_)?": r"Tconv1.\g<1>",
            r"^t_res(\d)_\d+_branch2c_bn_subsample_(bn_)?": r"Tconv\1.\g<2>",
            r"^(Tconv\d)\.bn_": r"\1.1.",
            r"^(Tconv\d)\.(?=\w+$)": r"\1.0.",
            **{rf"^res{stage + 1}_(\d+)_": rf"slow_res{stage}.\1." for stage in range(1, 5)},
            **{rf"^t_res{stage + 1}_(\d+)_": rf"fast_res{stage}.\1." for stage in range(1, 5)},
            r"^nonlocal_conv4_(\d+)_bn_": r"slow_res3.\1.non_local.bn.",
            r"^nonlocal_conv4_(\d+)_(theta|phi|g|out)_": r"slow_res3.\1.non_local.conv_\2.",
            r"\.branch1_bn_": ".downsample_bn.",
            r"\.branch1_": ".downsample.0.",
            **{rf"\.branch2{letter}_bn_": f".bn{number}." for number, letter in enumerate("abc", start=1)},
            **{rf"\.branch2{letter}_": f".conv{number}." for number, letter in enumerate("abc", start=1)},
            r"\.[ws]$": ".weight",
            r"\.b$": ".bias",
            r"\.rm$": ".running_mean",
            r"\.riv$": ".running_var",
        },
        mean=CLIP_MEAN,
        preset="r50 or r101",
    ),
    _Layout(
        code="mmaction2",
        parts=("slow_path.", "fast_path."),
        names={
            r"^backbone\.(slow|fast)_path\.": r"\1_path.",
            r"^(slow|fast)_path\.conv1\.(conv|bn)\.": r"\1_\g<2>1.",
            r"^(slow|fast)_path\.layer(\d)\.": r"\1_res\2.",
            r"^slow_path\.conv1_lateral\.": "Tconv1.",
            **{rf"^slow_path\.layer{stage}_lateral\.": f"Tconv{stage + 1}." for stage in range(1, 4)},
            r"^(Tconv\d|.*\.downsample)\.conv\.": r"\1.0.",
            r"^(Tconv\d)\.bn\.": r"\1.1.",
            r"\.downsample\.bn\.": ".downsample_bn.",
            r"\.conv([123])\.conv\.": r".conv\1.",
            r"\.conv([123])\.bn\.": r".bn\1.",
        },
        mean=IMAGENET_MEAN,
        preset="mmaction2-r50 or mmaction2-r101",
    ),
)


def from_published(
    tensors: Mapping[str, Tensor], config: SlowFastConfig
) -> tuple[Mapping[str, Tensor], Mapping[str, str]]:
    """Return the tensors under the names of `SlowFast`, and what is left out as name -> reason.

    Tensors without a counterpart keep their name, so a file of ours comes back as it is.
    """
    for layout in _LAYOUTS:
        if not any(name.removeprefix("backbone.").startswith(layout.parts) for name in tensors):
            continue
        if config.mean != layout.mean:
            raise InputError(
                f"The tensors have {layout.code}'s names. Its networks see pixels minus "
                f"{', '.join(map(str, layout.mean))}, but this preset subtracts {', '.join(map(str, config.mean))}. "
                f"Use a preset such as {layout.preset}."
            )
        kept, ignored = split_off(tensors, ("head.", "cls_head.", "roi_head.", "pred_"), "the classifier")
        state = dict.fromkeys((name for name in kept if _CAFFE2_STATE.search(name)), "training state")
        kept, ignored = {name: kept[name] for name in kept if name not in state}, ignored | state
        named = {_renamed(name, layout.names): tensor for name, tensor in kept.items()}
        if len(named) < len(kept):
            raise InputError("The file holds tensors twice, with and without 'backbone.' before their names.")
        if unknown := [name for name in named if name.startswith(layout.parts)]:
            raise InputError(
                f"{len(unknown)} tensors with names of {layout.code} belong to a network that is not read: "
                f"{', '.join(unknown[:8])}."
            )
        return named, ignored
    return tensors, {}


def check_settings(text: str, config: SlowFastConfig) -> None:
    """Refuse a network that was trained on another input than it is to see.

    text: what a checkpoint holds under `cfg`: for PySlowFast its settings as YAML; of other texts nothing is asked.
    """
    try:
        sections = load_yaml(text, "cfg")
    except InputError:
        return
    for place, needed in {
        "DATA.MEAN": list(config.mean),
        "DATA.STD": list(config.std),
        "DATA.REVERSE_INPUT_CHANNEL": False,
        "AVA.BGR": False,
        "SLOWFAST.ALPHA": config.alpha,
    }.items():
        section, _, name = place.partition(".")
        values = sections.get(section) if isinstance(sections, dict) else None
        if isinstance(values, dict) and values.get(name, needed) != needed:
            raise InputError(
                f"The network was trained with {place} {values[name]}, but the preset has {needed}. Choose a preset "
                "that has it; none takes pixels in the order blue, green, red."
            )


def _renamed(name: str, names: Mapping[str, str]) -> str:
    for pattern, replacement in names.items():
        name = re.sub(pattern, replacement, name)
    return name
