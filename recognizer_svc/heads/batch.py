"""What a head is fed, and the shapes it is built for.

B clips (one per key frame), N actors of all clips together, C channels, H, W rows and columns of a feature map.
"""

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

import torch
from torch import Tensor

from cache.spec import FeatureSpec
from recognizer_svc.training.recipe import Stream
from stal_data.errors import InputError

Shape = tuple[int, int, int]


@dataclass(frozen=True, kw_only=True, slots=True)
class FeatureShapes:
    """Channels, rows and columns of each pooled map that the head uses; None = it does not use it."""

    slow_CHW: Shape | None
    fast_CHW: Shape | None
    vit_CHW: Shape | None
    vit_frames: int
    """Time steps of the ViT's token grid before pooling; 0 without a ViT. The unbiased running variance needs it."""

    @classmethod
    def of(
        cls, spec: FeatureSpec, shapes: Mapping[str, tuple[int, ...]], streams: Collection[Stream] | None = None
    ) -> Self:
        """Shapes of a feature set with this spec and these arrays; `streams` None takes every backbone it holds."""
        held = streams_of(spec)
        wanted = held if streams is None else set(streams)
        if not wanted or wanted - held:
            raise InputError(
                f"data.streams is {sorted(wanted)}, but feature set {spec.id} holds {sorted(held)}; "
                "choose among those, or run precompute with the missing backbone."
            )
        return cls(
            slow_CHW=_shape(shapes["slow"]) if "slowfast" in wanted else None,
            fast_CHW=_shape(shapes["fast"]) if "slowfast" in wanted else None,
            vit_CHW=_shape(shapes["vit"]) if "vit" in wanted else None,
            vit_frames=vit_frames(spec) if "vit" in wanted else 0,
        )

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        slow, fast, vit = (
            None if values[name] is None else _shape(values[name]) for name in ("slow_CHW", "fast_CHW", "vit_CHW")
        )
        return cls(slow_CHW=slow, fast_CHW=fast, vit_CHW=vit, vit_frames=int(values["vit_frames"]))


@dataclass(frozen=True, kw_only=True, slots=True)
class HeadBatch:
    """B clips with N actors; float32 tensors on one device (in page-locked memory maps may be as stored, until `to`).

    slow_BCHW, fast_BCHW, vit_BCHW: time means of the backbones' outputs; None where the head does not use them.
    vit_moments_B2C: mean and mean square of each channel over time, rows and columns of the unpooled grid.
    boxes_N4: x1,y1,x2,y2 in [0,1] of the frame, actors of one clip next to each other, clips in order.
    clip_of_N: int64, index of each actor's clip in the batch.
    """

    slow_BCHW: Tensor | None
    fast_BCHW: Tensor | None
    vit_BCHW: Tensor | None
    vit_moments_B2C: Tensor | None
    boxes_N4: Tensor
    clip_of_N: Tensor

    def to(self, device: torch.device) -> "HeadBatch":
        def move(tensor: Tensor | None) -> Tensor | None:
            if tensor is None:
                return None
            # float16 as stored becomes float32; the float64 of exact comparisons stays.
            return tensor.to(device, non_blocking=True).to(torch.promote_types(tensor.dtype, torch.float32))

        return HeadBatch(
            slow_BCHW=move(self.slow_BCHW),
            fast_BCHW=move(self.fast_BCHW),
            vit_BCHW=move(self.vit_BCHW),
            vit_moments_B2C=move(self.vit_moments_B2C),
            boxes_N4=self.boxes_N4.to(device, non_blocking=True),
            clip_of_N=self.clip_of_N.to(device, non_blocking=True),
        )


def streams_of(spec: FeatureSpec) -> set[Stream]:
    """Backbones behind a feature spec."""
    held: set[Stream] = set()
    if spec.slowfast is not None:
        held.add("slowfast")
    if spec.vit is not None:
        held.add("vit")
    return held


def vit_frames(spec: FeatureSpec) -> int:
    """Time steps of the ViT's token grid: clip frames fed to it over frames per tubelet."""
    if spec.vit is None:
        raise InputError("The feature spec holds no vit backbone.")
    return int(spec.vit.config["num_frames"]) // int(spec.vit.config["tubelet"][0])


def _shape(shape: tuple[int, ...]) -> Shape:
    """Drop the time steps that the full layout has after the channels."""
    channels, *_, rows, columns = shape
    return channels, rows, columns
