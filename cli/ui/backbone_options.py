"""Options that choose backbones and their weights, alike in every command that computes features."""

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any, TypeVar, cast

import click

from cache.backbones import BACKBONES
from cache.backbones.choice import BackboneChoice, parse_choice, read_statistics
from cache.backbones.registry import Statistics
from cli.ui.options import with_options
from stal_data.errors import InputError

WEIGHTS_HELP = "A .safetensors file, random:SEED (untrained), or none."
NAMED = tuple(name for name, backbone in BACKBONES.items() if backbone.named_size)
"""Backbones with options of their own."""
Command = TypeVar("Command", bound=Callable[..., Any])


def backbone_options(*, required: bool = True) -> Callable[[Command], Command]:
    """Give a command the options; it gets the choices as `backbones`, each kind once. required: at least one."""
    return lambda command: _with_options(command, required)


def _with_options(command: Command, required: bool) -> Command:

    @wraps(command)
    def with_choices(*, backbone: tuple[str, ...], allow_download: bool, **options: Any) -> Any:
        choices = [parse_choice(text, allow_download) for text in backbone]
        for name in NAMED:
            weights, preset = options.pop(name), options.pop(f"{name}_preset")
            if weights != "none":
                choices.append(BackboneChoice(kind=name, preset=preset, weights=weights))
            elif preset is not None:
                raise click.UsageError(f"--{name}-preset '{preset}' needs --{name} WEIGHTS.")
        if required:
            require_backbones(choices)
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


def require_backbones(choices: Sequence[BackboneChoice]) -> None:
    """Raise where there is none."""
    if not choices:
        names = ", ".join(f"--{name}" for name in NAMED)
        raise click.UsageError(f"Name the weights of at least one backbone: {names} or --backbone.")


def preset_options(command: Command) -> Command:
    """Give a command the options for the sizes of all backbones; it gets those that were chosen as `presets`."""

    @wraps(command)
    def with_presets(**options: Any) -> Any:
        presets = {name: options.pop(f"{name}_preset") for name in BACKBONES}
        return command(presets={name: preset for name, preset in presets.items() if preset is not None}, **options)

    return cast(Command, with_options(with_presets, [_preset_option(name) for name in BACKBONES]))


def _preset_option(name: str) -> Callable[[Any], Any]:
    title = BACKBONES[name].title
    return click.option(
        f"--{name}-preset",
        help=f"Size of {title}, see docs/backbones.md; default: what the file says, else the published one.",
    )


def parse_statistics(texts: tuple[str, ...], kinds: list[str]) -> dict[str, Statistics]:
    """As `read_statistics`; errors name the option."""
    try:
        return read_statistics(texts, kinds)
    except InputError as error:
        raise click.BadParameter(str(error), param_hint="--statistics") from None
