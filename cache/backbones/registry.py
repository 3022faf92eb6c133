"""What a backbone declares. Importing this needs no torch."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

from cache.statistics import MapShape
from stal_data.errors import NotFoundError, did_you_mean

if TYPE_CHECKING:
    from torch import Tensor, nn

Statistics = Mapping[str, tuple[str, ...]]
"""What is kept of each map, by the map's name, in words for `split_word`; the order is that of the stored arrays."""


class BackboneConfig(Protocol):
    """The numbers of an architecture: a frozen dataclass of JSON values and tuples."""

    @property
    def num_frames(self) -> int:
        """Frames of an input clip."""

    @property
    def height(self) -> int:
        """Pixels of an input frame."""

    @property
    def width(self) -> int: ...

    @property
    def maps(self) -> dict[str, MapShape]:
        """Channels, time steps, rows and columns of each output map."""


LATER = {"later": True}
"""Metadata of a config's field that is written only where it is not the default: the ids of feature sets that were made
before there was such a field remain."""


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """The part of a backbone that needs torch.

    config: a dataclass that is a BackboneConfig. build: from a config to a module whose forward takes a clip
        [B,3,T,H,W] and returns its maps by name, [B,C,T,H,W] each.
    preset: the config of a name; NotFoundError for a name that there is not. default_preset: the published size.
    from_published: takes tensors of a published file or of one of ours, and the config; returns them under our names,
        and those left out as name -> reason.
    published_prefix: of its tensors in a whole published checkpoint; None where no such checkpoint holds it.
    check_settings: takes the training code's settings, text that a checkpoint may hold beside the tensors, and the
        config; an InputError where they do not go together. None = such text is not looked at.
    download: the tensors that the model's publisher offers for a config, over the network; None where nobody does.
    window_share: side of the window around a person that `backbone train` shows it, as a share of the input's height;
        None = whole clips, which a network with fixed positions needs.
    train_batch: examples a step of `backbone train`.
    """

    config: type[Any]
    build: "Callable[[Any], nn.Module]"
    preset: Callable[[str], Any]
    default_preset: str | None
    from_published: "Callable[[Mapping[str, Tensor], Any], tuple[Mapping[str, Tensor], Mapping[str, str]]]"
    published_prefix: str | None = None
    check_settings: Callable[[str, Any], None] | None = None
    download: "Callable[[Any], Mapping[str, Tensor]] | None" = None
    window_share: float | None = None
    train_batch: int = 8


@dataclass(frozen=True, kw_only=True)
class Backbone:
    """One kind of backbone.

    name: in specs, weights files and options. title: in messages.
    maps: its output maps, and the statistics that are kept of each unless others are asked for.
    load: imports what needs torch.
    named_size: whether there are presets of our own, so that commands have the options --NAME and --NAME-preset.
    named_in_spec: sets made when there were these backbones only must keep their ids (see `FeatureSpec.to_dict`).
    """

    name: str
    title: str
    maps: Statistics
    load: Callable[[], Architecture]
    named_size: bool = True
    named_in_spec: bool = False

    def __post_init__(self) -> None:
        for name in (self.name, *self.maps):
            if not re.fullmatch("[a-z][a-z0-9]*", name):
                raise ValueError(f"'{name}' names a backbone or a map; it must be lower-case letters and digits.")

    def all_time_steps(self) -> Statistics:
        """Return the maps with every time step kept in place of the mean."""
        return {
            name: tuple("full" if statistic == "mean" else statistic for statistic in kept)
            for name, kept in self.maps.items()
        }

    @cached_property
    def architecture(self) -> Architecture:
        return self.load()


def preset_from(presets: Mapping[str, Any], kind: str) -> Callable[[str], Any]:
    """Return a look-up for `Architecture.preset` in a table."""

    def look_up(name: str) -> Any:
        if name not in presets:
            raise NotFoundError(f"There is no {kind} preset '{name}'. {did_you_mean(name, presets)}")
        return presets[name]

    return look_up
