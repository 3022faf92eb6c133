"""What a head is fed, and the shapes it is built for.

B clips (one per key frame), N actors of all clips together, C channels, H, W rows and columns of a feature map,
R >= B key frames whose features are there, K = 2 x `FeatureShapes.neighbours`, V vectors of the feature bank.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor

from cache.backbones import BACKBONES
from cache.backbones.architectures import config_of
from cache.backbones.registry import BackboneConfig
from cache.spec import FeatureSpec
from cache.statistics import STATISTICS, StatisticName, array_name, split_word, statistic_of
from recognizer_svc.heads.regions import Regions
from stal_data.errors import InputError

MOMENTS = STATISTICS["moments"].suffix


@dataclass(frozen=True, kw_only=True, slots=True)
class FeatureShapes:
    """What a head is fed, the same whether the set holds time means or all time steps.

    arrays: shape of one clip of each array by its name, in the order in which heads join maps: (C,H,W) of a map's time
        mean, maximum or slope, (2,C) of its moments; of a pooled one, rows and columns are fewer.
    time_steps: of each map that has moments, before pooling: the unbiased running variance needs the number.
    neighbours: key frames before a clip's, and as many after it, in which its actors are seen, too.
    bank_channels: of a vector of the feature bank; 0 = without a bank.
    """

    arrays: Mapping[str, tuple[int, ...]]
    time_steps: Mapping[str, int]
    neighbours: int = 0
    bank_channels: int = 0

    @property
    def maps(self) -> dict[str, tuple[int, int, int]]:
        """Channels, rows and columns of each array that covers the frame."""
        return {name: (shape[0], shape[1], shape[2]) for name, shape in self.arrays.items() if len(shape) == 3}

    @classmethod
    def of(
        cls,
        spec: FeatureSpec,
        shapes: Mapping[str, tuple[int, ...]],
        streams: Collection[str] | None = None,
        statistics: Collection[StatisticName] = ("mean", "moments"),
        neighbours: int = 0,
        bank: Regions | None = None,
        *,
        computed: bool = False,
    ) -> Self:
        """Shapes of a feature set with this spec and these arrays.

        streams: backbones, None = all. statistics: of their maps; of one with all time steps, the mean.
        bank: how the vectors of the feature bank are made; None = without a bank.
        computed: whether statistics that none of these maps has are taken from all time steps, too.
        """
        wanted = set(spec.kinds) if streams is None else set(streams)
        if not wanted or wanted - set(spec.kinds):
            raise InputError(
                f"data.streams is {sorted(wanted)}, but feature set {spec.id} holds {sorted(spec.kinds)}; "
                "choose among those, or run precompute with the missing backbone."
            )
        arrays: dict[str, tuple[int, ...]] = {}
        time_steps: dict[str, int] = {}
        readable = spec.of_kinds(wanted).readable
        held = {array.statistic for array, stored in readable.items() if array.name == stored}
        missing = set(statistics) - held if computed else set()
        for array, stored in readable.items():
            if array.statistic not in (statistics if array.name == stored else missing):
                continue
            shape = tuple(shapes[stored])
            arrays[array.name] = statistic_of(array.statistic).row_shape(shape) if len(shape) == 4 else shape
            if array.statistic == "moments":
                time_steps[array.map] = config_of(spec.backbone(array.backbone)).maps[array.map][1]
        if not any(len(shape) == 3 for shape in arrays.values()):
            raise InputError(
                f"Feature set {spec.id} holds none of the statistics {', '.join(statistics)} of any map: choose others "
                "with data.statistics, or run precompute with --statistics."
            )
        found = cls(arrays=arrays, time_steps=time_steps, neighbours=neighbours)
        return found if bank is None else replace(found, bank_channels=bank.channels(found.maps))

    @classmethod
    def of_configs(cls, configs: Mapping[str, BackboneConfig]) -> Self:
        """Shapes of what these backbones, by name, keep by default."""
        arrays: dict[str, tuple[int, ...]] = {}
        time_steps: dict[str, int] = {}
        for kind in (name for name in BACKBONES if name in configs):
            for name, kept in BACKBONES[kind].maps.items():
                shape = configs[kind].maps[name]
                statistics = [split_word(word)[0] for word in kept]
                arrays |= {array_name(name, item): statistic_of(item).row_shape(shape) for item in statistics}
                if "moments" in kept:
                    time_steps[name] = shape[1]
        return cls(arrays=arrays, time_steps=time_steps)

    def beside(self, other: Self) -> Self:
        """Return the shapes of both, in the order of the backbones."""
        arrays = {**self.arrays, **other.arrays}
        return replace(
            self,
            arrays={name: arrays[name] for name in _in_order(arrays)},
            time_steps={**self.time_steps, **other.time_steps},
        )

    def to_dict(self) -> dict[str, Any]:
        # Pairs, because JSON's mappings may be sorted on their way, and heads join maps in this order.
        pairs = [[name, list(shape)] for name, shape in self.arrays.items()]
        counts = {"neighbours": self.neighbours, "bank_channels": self.bank_channels}
        return {"arrays": pairs, "time_steps": dict(self.time_steps), **counts}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """The inverse of `to_dict`; it reads what earlier versions wrote, a key `MAP_CHW` or `MAP_frames` a value."""
        if "arrays" in values:
            arrays = {name: tuple(shape) for name, shape in values["arrays"]}
            counts = {name: values.get(name, 0) for name in ("neighbours", "bank_channels")}
            return cls(arrays=arrays, time_steps=dict(values["time_steps"]), **counts)
        shapes = {key: shape for key, shape in values.items() if key.endswith("_CHW") and shape}
        arrays = {key.removesuffix("_CHW"): tuple(shape) for key, shape in shapes.items()}
        steps = {key.removesuffix("_frames"): int(n) for key, n in values.items() if key.endswith("_frames") and n}
        arrays |= {name + MOMENTS: (2, arrays[name][0]) for name in steps}
        return cls(arrays={name: arrays[name] for name in _in_order(arrays)}, time_steps=steps)


@dataclass(frozen=True, kw_only=True, slots=True)
class HeadBatch:
    """B clips with N actors; float32 tensors on one device (in page-locked memory maps may be as stored, until `to`).

    features: by array, as `FeatureShapes` lists them: time means (or maxima or slopes) [R,C,H,W], and moments [R,2,C],
        which are mean and mean square of each channel over time, rows and columns of the unpooled map. The first B are
        the clips'; those behind are of neighbouring key frames that are no clip of the batch, so mostly there are none.
    boxes_N4: x1,y1,x2,y2 in [0,1] of the frame, actors of one clip next to each other, clips in order.
    clip_of_N: int64, index of each actor's clip in the batch.
    neighbour_boxes_NK4: where each actor is in the key frames before and after, in the order of time; any box where the
        actor is not there. None without neighbours.
    neighbour_row_NK: int64, whose features those are, from 0 to R - 1; -1 where the actor is not there.
    bank_VC: vectors of the people of the key frames around the clips, each once; None without a bank.
    bank_seen_BV: bool, which of them are around which clip; for some clips there may be none.
    """

    features: Mapping[str, Tensor]
    boxes_N4: Tensor
    clip_of_N: Tensor
    neighbour_boxes_NK4: Tensor | None = None
    neighbour_row_NK: Tensor | None = None
    bank_VC: Tensor | None = None
    bank_seen_BV: Tensor | None = None

    def to(self, device: torch.device) -> "HeadBatch":
        def move(tensor: Tensor) -> Tensor:
            # float16 as stored becomes float32; the float64 of exact comparisons stays.
            return tensor.to(device, non_blocking=True).to(torch.promote_types(tensor.dtype, torch.float32))

        def move_as_is(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else tensor.to(device, non_blocking=True)

        return HeadBatch(
            features={name: move(values) for name, values in self.features.items()},
            boxes_N4=self.boxes_N4.to(device, non_blocking=True),
            clip_of_N=self.clip_of_N.to(device, non_blocking=True),
            neighbour_boxes_NK4=move_as_is(self.neighbour_boxes_NK4),
            neighbour_row_NK=move_as_is(self.neighbour_row_NK),
            bank_VC=move_as_is(self.bank_VC),
            bank_seen_BV=move_as_is(self.bank_seen_BV),
        )


def _in_order(names: Collection[str]) -> list[str]:
    """The arrays in the order of the backbones that they are of, those of others behind."""
    maps = [item for backbone in BACKBONES.values() for item in backbone.maps.items()]
    order = [array_name(name, split_word(word)[0]) for name, kept in maps for word in kept]
    return [name for name in order if name in names] + [name for name in names if name not in order]
