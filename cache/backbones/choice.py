"""Which backbones compute features, and what is kept of their maps, as options and operators write it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from cache.backbones import backbone_of
from cache.backbones.registry import Statistics
from stal_data.errors import InputError

if TYPE_CHECKING:
    from cache.backbones.load import LoadedBackbone


@dataclass(frozen=True, kw_only=True)
class BackboneChoice:
    """weights: file, random:SEED, or None for those that the preset's publisher offers. preset: None = the default."""

    kind: str
    preset: str | None
    weights: str | None
    may_download: bool = False

    def load(self, statistics: Statistics | None = None) -> "LoadedBackbone":
        from cache.backbones.load import load_backbone

        return load_backbone(
            self.kind,
            weights=self.weights,
            preset=self.preset,
            statistics=statistics,
            may_download=self.may_download,
        )

    def words(self) -> tuple[str, ...]:
        """The options that choose it in another command."""
        preset = "" if self.preset is None else f":{self.preset}"
        weights = "" if self.weights is None else f"={self.weights}"
        download = ("--allow-download",) if self.may_download else ()
        return ("--backbone", f"{self.kind}{preset}{weights}", *download)


def parse_choice(text: str, may_download: bool) -> BackboneChoice:
    """Read KIND[:SIZE][=WEIGHTS]."""
    name, _, weights = text.partition("=")
    kind, _, preset = name.partition(":")
    backbone_of(kind)
    return BackboneChoice(
        kind=kind, preset=preset or None, weights=weights or None, may_download=may_download and not weights
    )


def read_statistics(texts: Sequence[str], kinds: Sequence[str]) -> dict[str, Statistics]:
    """Return what is kept of each backbone's maps: its defaults, with what the texts change.

    texts: `full`, for every time step of every map in place of its time mean, or MAP=STATISTIC,... for one map.
    """
    kept = {
        kind: dict(backbone_of(kind).all_time_steps() if "full" in texts else backbone_of(kind).maps) for kind in kinds
    }
    for text in texts:
        if text == "full":
            continue
        name, separator, names = text.partition("=")
        if not separator:
            raise InputError(f"'{text}' must be full or MAP=STATISTIC,...")
        owners = [kind for kind in kinds if name in kept[kind]]
        if not owners:
            known = ", ".join(map_name for kind in kinds for map_name in kept[kind])
            raise InputError(f"no backbone has the map '{name}'; they have {known}")
        kept[owners[0]][name] = cast("Any", tuple(names.split(",")))
    return dict(kept)
