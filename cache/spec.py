"""What a feature set was made of. Two sets are interchangeable exactly when their specs are equal."""

import hashlib
import json
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any, Literal, Self

from cache.backbones import BACKBONES, backbone_of
from cache.backbones.registry import Statistics
from cache.statistics import SCALE, STATISTICS, ArrayDtype, StatisticName, array_name, split_word, statistic_of
from stal_data.errors import InputError, NotFoundError

View = Literal["identity", "hflip"]
FeatureDtype = Literal["float16", "float32"]
Autocast = Literal["none", "bf16", "fp16"]

VIEWS: tuple[View, ...] = ("identity", "hflip")
DTYPES: tuple[FeatureDtype, ...] = ("float16", "float32")
AUTOCASTS: tuple[Autocast, ...] = ("none", "bf16", "fp16")


def _canonical_json(value: object) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _choice(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise InputError(f"{name} is '{value}'; it must be one of {', '.join(allowed)}.")


@dataclass(frozen=True, kw_only=True)
class FeatureArray:
    """An array that is stored, or that a head is given: a statistic of a backbone's map.

    dtype: what it is stored in where it has a type of its own; None = the set's.
    """

    name: str
    backbone: str
    map: str
    statistic: StatisticName
    dtype: ArrayDtype | None = None

    @property
    def word(self) -> str:
        """What stands for it among a map's statistics."""
        return self.statistic if self.dtype is None else f"{self.statistic}/{self.dtype}"

    def stored(self, maps: FeatureDtype) -> dict[str, ArrayDtype]:
        """Return the arrays on disk and their types: itself, and the scales of int8. maps: the set's type."""
        default: FeatureDtype = "float32" if statistic_of(self.statistic).always_float32 else maps
        dtype = self.dtype or default
        return {self.name: dtype, **({self.name + SCALE: "float16"} if dtype == "int8" else {})}


@dataclass(frozen=True, kw_only=True)
class BackboneSpec:
    """One frozen backbone: its architecture, its weights, the input size it is fed, and what is kept of its maps.

    kind: its name in `cache.backbones`.
    config: the architecture's numbers, as plain JSON values (tuples become lists), so that a preset that changes
        makes another spec.
    weights: `sha256:<hex>` of the tensors, or `random:<seed>` for untrained ones.
    height, width: pixels of the input clip.
    statistics: what is kept of each map; empty becomes what the backbone keeps by default.
    """

    kind: str
    preset: str
    config: Mapping[str, Any] = field(hash=False)
    weights: str
    trained: bool
    height: int
    width: int
    statistics: Statistics = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        if not self.weights.startswith(("sha256:", "random:")):
            raise InputError(f"backbone.weights is '{self.weights}'; it must be 'sha256:<hex>' or 'random:<seed>'.")
        if self.height <= 0 or self.width <= 0:
            raise InputError(f"The backbone's input size is {self.height}x{self.width}; both must be positive.")
        # One JSON round trip: a spec that was read back equals the one that was written.
        object.__setattr__(self, "config", json.loads(_canonical_json(dict(self.config))))
        object.__setattr__(self, "statistics", self.statistics or backbone_of(self.kind).maps)
        for name, kept in self.statistics.items():
            if self.kind in BACKBONES:
                _choice(f"The map of the {self.kind} backbone", name, tuple(BACKBONES[self.kind].maps))
            for word in kept:
                try:
                    split_word(word)
                except InputError as error:
                    raise InputError(f"The statistic of the map '{name}' {error}.") from None

    @property
    def arrays(self) -> tuple[FeatureArray, ...]:
        kept = [(name, *split_word(word)) for name, words in self.statistics.items() for word in words]
        return tuple(
            FeatureArray(
                name=array_name(name, statistic), backbone=self.kind, map=name, statistic=statistic, dtype=dtype
            )
            for name, statistic, dtype in kept
        )

    @property
    def readable(self) -> dict[FeatureArray, str]:
        """What a head may be given, with the stored array that it is or, from all time steps, is computed of."""
        found: dict[FeatureArray, str] = {}
        for array in self.arrays:
            if array.statistic != "full":
                found[array] = array.name
                continue
            for name in (item for item in STATISTICS if item != "full"):
                found[replace(array, name=array_name(array.map, name), statistic=name, dtype=None)] = array.name
        return found

    def to_dict(self) -> dict[str, Any]:
        values = {name: value for name, value in vars(self).items() if name != "statistics"}
        # Pairs, because the canonical form sorts the keys of a mapping.
        return values | {"statistics": [[name, list(kept)] for name, kept in self.statistics.items()]}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], default: Statistics | None = None) -> Self:
        """The inverse of `to_dict`. default: the statistics of a backbone that names none."""
        pairs = values["statistics"] if default is None else values.get("statistics", default.items())
        return cls(**{**values, "statistics": {name: tuple(kept) for name, kept in pairs}})


@dataclass(frozen=True, kw_only=True)
class ClipSpec:
    """How the frames around a key frame become the input of a backbone.

    num_frames: length of the centre window on the time line of `fps` frames a second; every `stride`-th is used.
    mean, std: normalisation of pixels in [0,1], the same for the three channels.
    """

    num_frames: int = 64
    stride: int = 2
    fps: int = 25
    mean: float = 0.45
    std: float = 0.225
    resize: str = "pil-bilinear"


@dataclass(frozen=True, kw_only=True)
class FeatureSpec:
    """All that decides the bytes of a feature set, apart from the frames themselves.

    backbones: at least one, each kind once; kept in the order of `cache.backbones`, others behind by name.
    decoder: name and version of what turned files into pixels.
    autocast: what the backbones' matrix products and convolutions ran in; `none` = float32.
    compiled: whether torch.compile arranged the operations, which rounds differently.
    """

    backbones: tuple[BackboneSpec, ...]
    clip: ClipSpec = field(default_factory=ClipSpec)
    decoder: str
    view: View = "identity"
    dtype: FeatureDtype = "float16"
    autocast: Autocast = "none"
    compiled: bool = False

    def __post_init__(self) -> None:
        _choice("view", self.view, VIEWS)
        _choice("dtype", self.dtype, DTYPES)
        _choice("autocast", self.autocast, AUTOCASTS)
        if not self.backbones:
            raise InputError("A feature spec needs at least one backbone; it has none.")
        places = {name: place for place, name in enumerate(BACKBONES)}
        ordered = sorted(self.backbones, key=lambda item: (places.get(item.kind, len(places)), item.kind))
        object.__setattr__(self, "backbones", tuple(ordered))
        _once("backbone", [item.kind for item in self.backbones])
        _once("array", [array.name for array in self.arrays])

    @cached_property
    def arrays(self) -> tuple[FeatureArray, ...]:
        """Every stored array, in the order in which a row's digest takes them."""
        return tuple(array for backbone in self.backbones for array in backbone.arrays)

    @cached_property
    def readable(self) -> dict[FeatureArray, str]:
        """`BackboneSpec.readable`, of all backbones."""
        return {array: stored for backbone in self.backbones for array, stored in backbone.readable.items()}

    def stored_for(self, arrays: Collection[str]) -> list[str]:
        """Return the stored arrays from which arrays that a head is given are read; all of these must be readable."""
        sources = {array.name: stored for array, stored in self.readable.items()}
        stored = {array.name: array.stored(self.dtype) for array in self.arrays}
        return list(dict.fromkeys(name for array in arrays for name in stored[sources[array]]))

    @property
    def kinds(self) -> tuple[str, ...]:
        return tuple(backbone.kind for backbone in self.backbones)

    def backbone(self, kind: str) -> BackboneSpec:
        for item in self.backbones:
            if item.kind == kind:
                return item
        raise NotFoundError(f"The feature spec holds no {kind} backbone; it has {', '.join(self.kinds)}.")

    def with_backbone(self, backbone: BackboneSpec) -> Self:
        """Return the spec with this backbone in place of the one of its kind, if there is one."""
        return replace(self, backbones=(*(item for item in self.backbones if item.kind != backbone.kind), backbone))

    def of_kinds(self, kinds: Collection[str]) -> Self:
        """Return the spec with the backbones of these kinds alone."""
        return replace(self, backbones=tuple(item for item in self.backbones if item.kind in kinds))

    @property
    def id(self) -> str:
        """First 16 hex digits of the sha256 of the canonical form; names the set's folder."""
        return hashlib.sha256(self.canonical().encode()).hexdigest()[:16]

    def canonical(self) -> str:
        """The spec as JSON with sorted keys and no spaces."""
        return _canonical_json(self.to_dict())

    def with_view(self, view: View) -> Self:
        return replace(self, view=view)

    def diff(self, other: "FeatureSpec") -> list[str]:
        """Return the fields that differ, each as `name: value of self, value of other`."""
        mine, theirs = _flatten(self._fields()), _flatten(other._fields())
        return [
            f"{name}: {mine.get(name, 'absent')} / {theirs.get(name, 'absent')}"
            for name in sorted(mine.keys() | theirs.keys())
            if mine.get(name, "absent") != theirs.get(name, "absent")
        ]

    def _fields(self) -> dict[str, Any]:
        values = asdict(self)
        del values["backbones"]
        for backbone in self.backbones:
            kept = {name: ", ".join(statistics) for name, statistics in backbone.statistics.items()}
            values[backbone.kind] = {**vars(backbone), "statistics": kept}
        return values

    def to_dict(self) -> dict[str, Any]:
        """The spec as JSON values.

        Sets keep their ids: what could not be chosen when they were made is written as it was written then. So the
        backbones that there were stand under their names, null where they are absent, with one word for the statistics
        of all; other backbones and statistics are written out.
        """
        values = asdict(self)
        for name, default in (("autocast", "none"), ("compiled", False)):
            if values[name] == default:
                del values[name]
        del values["backbones"]
        written = {item.kind: item.to_dict() for item in self.backbones}
        full = all(item.kind in _NAMED and item.statistics == _of_layout(item.kind, "full") for item in self.backbones)
        values["layout"] = layout = "full" if full else "pooled"
        for kind in _NAMED:
            values[kind] = spec = written.pop(kind, None)
            if spec is not None and self.backbone(kind).statistics == _of_layout(kind, layout):
                del spec["statistics"]
        return values | ({"backbones": list(written.values())} if written else {})

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The inverse of `to_dict`; a missing or unknown field is an error that names it."""
        fields = dict(values)
        try:
            layout, others = fields.pop("layout"), fields.pop("backbones", [])
            found = []
            for kind in _NAMED:
                spec = fields.pop(kind)
                if spec is not None:
                    found.append(BackboneSpec.from_dict(spec, default=_of_layout(kind, layout)))
            fields["backbones"] = (*found, *map(BackboneSpec.from_dict, others))
            fields["clip"] = ClipSpec(**fields["clip"])
            return cls(**fields)
        except (TypeError, KeyError, ValueError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"Not a feature spec of this version: {error}.") from None


_NAMED = tuple(name for name, backbone in BACKBONES.items() if backbone.named_in_spec)


def _of_layout(kind: str, layout: str) -> Statistics:
    """What the word for the statistics of all maps stands for: `full` keeps every time step in place of the mean."""
    _choice("layout", layout, ("pooled", "full"))
    return BACKBONES[kind].maps if layout == "pooled" else BACKBONES[kind].all_time_steps()


def _once(what: str, names: Iterable[str]) -> None:
    for name, count in Counter(names).items():
        if count > 1:
            raise InputError(f"The feature spec names the {what} '{name}' {count} times; each may be there once.")


def _flatten(value: object, prefix: str = "") -> dict[str, str]:
    """Map dotted names to printed leaves: {"slowfast.height": "224", ...}."""
    if not isinstance(value, Mapping):
        return {prefix: str(value)}
    flat: dict[str, str] = {}
    for key, item in value.items():
        flat |= _flatten(item, f"{prefix}.{key}" if prefix else str(key))
    return flat
