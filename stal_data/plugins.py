"""Heads, backbones and formats of other packages, which are loaded only where whoever runs the program allows them.

A package offers one under an entry point of its name, in the group `stal.heads`, `stal.backbones` or `stal.formats`.
"""

import os
from collections.abc import Iterable
from importlib.metadata import entry_points

from stal_data.errors import InputError

VARIABLE = "STAL_ALLOW_PLUGINS"
"""Names, separated by commas. An environment variable, so that processes that are started obey it, too."""


def allow_plugins(names: Iterable[str]) -> None:
    """Allow these plugins, beside those that are allowed, in this process and those that it starts."""
    if allowed := [*_allowed(), *names]:
        os.environ[VARIABLE] = ",".join(allowed)


def allowed_plugin(group: str, name: object) -> object | None:
    """Load what an installed package offers under a name; None where none does.

    A plugin that nobody allowed is an error that says how to allow it, and none of its code runs.
    """
    found = tuple(entry_points(group=group, name=name)) if isinstance(name, str) else ()
    if not found:
        return None
    packages = ", ".join(sorted(entry.dist.name if entry.dist else entry.value for entry in found))
    if name not in _allowed():
        raise InputError(
            f"'{name}' is a plugin of {packages}, which is installed but not allowed here. Allow it with "
            f"'stal-cli --allow-plugin {name} ...', for a service where that is started, or with {VARIABLE}={name}."
        )
    if len(found) > 1:
        raise InputError(f"Several packages offer the plugin '{name}': {packages}. Uninstall all but one.")
    try:
        loaded: object = found[0].load()
    except Exception as error:
        raise InputError(f"The plugin '{name}' of {packages} does not load: {error!r}.") from error
    return loaded


def _allowed() -> list[str]:
    return [name for name in os.environ.get(VARIABLE, "").split(",") if name]
