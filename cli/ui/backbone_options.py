"""Options that choose backbones and their weights, alike in every command that computes features."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import TYPE_CHECKING, Any, TypeVar, cast

import click

from cache.backbones import BACKBONES, backbone_of
from cache.backbones.registry import Statistics

if TYPE_CHECKING:
    from cache.backbones.load import LoadedBackbone

WEIGHTS_HELP = "A .safetensors file, random:SEED (untrained), or none."
NAMED = tuple(name for name, backbone in BACKBONES.items() if backbone.named_size)
"""Backbones with options of their own."""
Command = TypeVar("Command", bound=Callable[..., Any])


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


def backbone_options(*, required: bool = True) -> Callable[[Command], Command]:
    """Give a command the options; it gets the choices as `backbones`, each kind once. required: at least one."""
    return lambda command: _with_options(command, required)


def _with_options(command: Command, required: bool) -> Command:

    @wraps(command)
    def with_choices(*, backbone: tuple[str, ...], allow_download: bool, **options: Any) -> Any:
        choices = [_parse(text, allow_download) for text in backbone]
        for name in NAMED:
            weights, preset = options.pop(name), options.pop(f"{name}_preset")
            if weights != "none":
                choices.append(BackboneChoice(kind=name, preset=preset, weights=weights))
            elif preset is not None:
                raise click.UsageError(f"--{name}-preset '{preset}' needs --{name} WEIGHTS.")
        if required and not choices:
            names = ", ".join(f"--{name}" for name in NAMED)
            raise click.UsageError(f"Name the weights of at least one backbone: {names} or --backbone.")
        kinds = [choice.kind for choice in choices]
        for kind in kinds:
            if kinds.count(kind) > 1:
                raise click.UsageError(f"The backbone {kind} is named {kinds.count(kind)} times; name it once.")
        return command(backbones=choices, **options)

    decorated: Any = with_choices
    decorated = click.option(
        "--allow-download", is_flag=True, help="Fetch weights over the network where --backbone names none."
    )(decorated)
    decorated = click.option(
        "--backbone",
        multiple=True,
        metavar="KIND[:SIZE][=WEIGHTS]",
        help=f"Repeatable; KIND is one of {', '.join(BACKBONES)}, WEIGHTS as above. timm:MODEL=WEIGHTS is any image "
        "model of timm; without WEIGHTS its publisher's are downloaded, if --allow-download says so.",
    )(decorated)
    for name in reversed(NAMED):
        decorated = _preset_option(name)(decorated)
        decorated = click.option(f"--{name}", default="none", show_default=True, metavar="WEIGHTS", help=WEIGHTS_HELP)(
            decorated
        )
    return cast(Command, decorated)


def preset_options(command: Command) -> Command:
    """Give a command the options for the sizes of all backbones; it gets those that were chosen as `presets`."""

    @wraps(command)
    def with_presets(**options: Any) -> Any:
        presets = {name: options.pop(f"{name}_preset") for name in BACKBONES}
        return command(presets={name: preset for name, preset in presets.items() if preset is not None}, **options)

    decorated: Any = with_presets
    for name in reversed(BACKBONES):
        decorated = _preset_option(name)(decorated)
    return cast(Command, decorated)


def _preset_option(name: str) -> Callable[[Any], Any]:
    title = BACKBONES[name].title
    return click.option(
        f"--{name}-preset",
        help=f"Size of {title}, see docs/backbones.md; default: what the file says, else the published one.",
    )


def _parse(text: str, may_download: bool) -> BackboneChoice:
    name, _, weights = text.partition("=")
    kind, _, preset = name.partition(":")
    backbone_of(kind)
    return BackboneChoice(
        kind=kind, preset=preset or None, weights=weights or None, may_download=may_download and not weights
    )


def parse_statistics(texts: tuple[str, ...], kinds: list[str]) -> dict[str, Statistics]:
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
            raise click.BadParameter(f"'{text}' must be full or MAP=STATISTIC,...", param_hint="--statistics")
        owners = [kind for kind in kinds if name in kept[kind]]
        if not owners:
            known = ", ".join(map_name for kind in kinds for map_name in kept[kind])
            raise click.BadParameter(f"no backbone has the map '{name}'; they have {known}", param_hint="--statistics")
        kept[owners[0]][name] = cast("Any", tuple(names.split(",")))
    return dict(kept)
