"""A command group that imports a command only to run it."""

import os
import re
from collections.abc import Mapping
from importlib import import_module
from typing import Any

import click

from stal_data.errors import did_you_mean

# At the beginning of a word or of an option's value, up to the first slash.
_HOME = re.compile(r"^(--[\w-]+=)?(~[^/]*)(?=/|$)")


def _home_folder(match: re.Match[str]) -> str:
    option, name = match[1] or "", match[2]
    folder = os.path.expanduser(name)  # noqa: PTH111 - Path's raises RuntimeError for an unknown user
    if folder == name and (option or match.end() < len(match.string)):
        raise click.UsageError(
            f"'{match.string}': there is no user '{name[1:]}' here, whose home folder '{name}' would be. Write "
            f"'./{name}' for a file of that name."
        )
    return option + folder


class LazyGroup(click.Group):
    """A group that knows its commands by name: name -> (module:attribute, help line)."""

    def __init__(self, *args: Any, lazy: Mapping[str, tuple[str, str]], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._lazy = lazy

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Take `--store=~/x` for what it says; shells leave a ~ alone that does not begin a word."""
        return super().parse_args(ctx, [_HOME.sub(_home_folder, word) for word in args])

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return list(self._lazy)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in self._lazy:
            return None
        module, attribute = self._lazy[cmd_name][0].split(":")
        command = getattr(import_module(module), attribute)
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in self._lazy and not args[0].startswith("-"):
            ctx.fail(f"No such command '{args[0]}'. {did_you_mean(args[0], self._lazy)}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in self._lazy.items()])
