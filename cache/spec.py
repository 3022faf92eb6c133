"""What a feature set was made of. Two sets are interchangeable exactly when their specs are equal."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, Self

from stal_data.errors import InputError

View = Literal["identity", "hflip"]
FeatureDtype = Literal["float16", "float32"]
Layout = Literal["pooled", "full"]
Autocast = Literal["none", "bf16", "fp16"]
BackboneKind = Literal["slowfast", "vit"]

VIEWS: tuple[View, ...] = ("identity", "hflip")
DTYPES: tuple[FeatureDtype, ...] = ("float16", "float32")
LAYOUTS: tuple[Layout, ...] = ("pooled", "full")
AUTOCASTS: tuple[Autocast, ...] = ("none", "bf16", "fp16")
KINDS: tuple[BackboneKind, ...] = ("slowfast", "vit")


def _canonical_json(value: object) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _choice(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise InputError(f"{name} is '{value}'; it must be one of {', '.join(allowed)}.")


@dataclass(frozen=True, kw_only=True)
class BackboneSpec:
    """One frozen backbone: its architecture, its weights and the input size it is fed.

    config: the architecture's numbers, as plain JSON values (tuples become lists), so that a preset that changes
        makes another spec.
    weights: `sha256:<hex>` of the tensors, or `random:<seed>` for untrained ones.
    height, width: pixels of the input clip.
    """

    kind: BackboneKind
    preset: str
    config: Mapping[str, Any] = field(hash=False)
    weights: str
    trained: bool
    height: int
    width: int

    def __post_init__(self) -> None:
        _choice("backbone.kind", self.kind, KINDS)
        if not self.weights.startswith(("sha256:", "random:")):
            raise InputError(f"backbone.weights is '{self.weights}'; it must be 'sha256:<hex>' or 'random:<seed>'.")
        if self.height <= 0 or self.width <= 0:
            raise InputError(f"The backbone's input size is {self.height}x{self.width}; both must be positive.")
        # One JSON round trip: a spec that was read back equals the one that was written.
        object.__setattr__(self, "config", json.loads(_canonical_json(dict(self.config))))


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

    slowfast, vit: at least one is present; a set holds the arrays of those that are.
    decoder: name and version of what turned files into pixels.
    layout: what is kept of a backbone's output; `pooled` = the time mean, `full` = every time step; and in both the
        moments of the ViT grid.
    autocast: what the backbones' matrix products and convolutions ran in; `none` = float32.
    compiled: whether torch.compile arranged the operations, which rounds differently.
    """

    slowfast: BackboneSpec | None
    vit: BackboneSpec | None
    clip: ClipSpec = field(default_factory=ClipSpec)
    decoder: str
    view: View = "identity"
    dtype: FeatureDtype = "float16"
    layout: Layout = "pooled"
    autocast: Autocast = "none"
    compiled: bool = False

    def __post_init__(self) -> None:
        _choice("view", self.view, VIEWS)
        _choice("dtype", self.dtype, DTYPES)
        _choice("layout", self.layout, LAYOUTS)
        _choice("autocast", self.autocast, AUTOCASTS)
        if self.slowfast is None and self.vit is None:
            raise InputError("A feature spec needs at least one backbone; slowfast and vit are both none.")
        for kind, backbone in (("slowfast", self.slowfast), ("vit", self.vit)):
            if backbone is not None and backbone.kind != kind:
                raise InputError(f"The {kind} backbone has kind '{backbone.kind}'; it must be '{kind}'.")

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
        mine, theirs = _flatten(asdict(self)), _flatten(asdict(other))
        return [
            f"{name}: {mine.get(name, 'absent')} / {theirs.get(name, 'absent')}"
            for name in sorted(mine.keys() | theirs.keys())
            if mine.get(name, "absent") != theirs.get(name, "absent")
        ]

    def to_dict(self) -> dict[str, Any]:
        values = asdict(self)
        # Absent where they are as before these fields existed, so that such sets keep their ids.
        for name, default in (("autocast", "none"), ("compiled", False)):
            if values[name] == default:
                del values[name]
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The inverse of `to_dict`; a missing or unknown field is an error that names it."""
        fields = dict(values)
        try:
            for kind in KINDS:
                fields[kind] = None if fields[kind] is None else BackboneSpec(**fields[kind])
            fields["clip"] = ClipSpec(**fields["clip"])
            return cls(**fields)
        except (TypeError, KeyError) as error:
            raise InputError(f"Not a feature spec of this version: {error}.") from None


def _flatten(value: object, prefix: str = "") -> dict[str, str]:
    """Map dotted names to printed leaves: {"slowfast.height": "224", ...}."""
    if not isinstance(value, Mapping):
        return {prefix: str(value)}
    flat: dict[str, str] = {}
    for key, item in value.items():
        flat |= _flatten(item, f"{prefix}.{key}" if prefix else str(key))
    return flat
