"""Heads, backbones and formats of other people, which are loaded only where whoever runs the program allows them.

A package offers one under an entry point of its name, in the group `stal.heads`, `stal.backbones` or `stal.formats`; a
file offers its variables, FILE.py:NAME.
"""

import os
import sys
from collections.abc import Iterable
from importlib.metadata import entry_points
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

from stal_data.errors import InputError

VARIABLE = "STAL_ALLOW_PLUGINS"
"""Names, separated by commas. An environment variable, so that processes that are started obey it, too."""


def allow_plugins(names: Iterable[str]) -> None:
    """Allow these plugins, beside those that are allowed, in this process and those that it starts.

    names: of entry points, or FILE.py:NAME.
    """
    if allowed := [*_allowed(), *map(_absolute, names)]:
        os.environ[VARIABLE] = ",".join(allowed)


def allowed_plugin(group: str, name: object) -> object | None:
    """Load what an allowed file or an installed package offers under a name; None where none does.

    A plugin that nobody allowed is an error that says how to allow it, and none of its code runs.
    """
    for allowed in _allowed():
        file, _, variable = allowed.rpartition(":")
        if file and variable == name:
            return _from_file(Path(file), variable)
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


def _absolute(name: str) -> str:
    """Return FILE.py:NAME with the file's absolute path, since the processes that are started have other folders."""
    file, colon, variable = name.rpartition(":")
    if not colon:
        return name
    path = Path(file).resolve()
    if path.suffix != ".py" or not path.is_file() or not variable.isidentifier() or "," in str(path):
        raise InputError(
            f"--allow-plugin {name} must be the name of an installed plugin or FILE.py:NAME, where FILE.py is a file "
            "whose path has no comma and NAME a variable in it."
        )
    return f"{path}:{variable}"


def _from_file(path: Path, variable: str) -> object:
    name = f"stal_plugin {path}"
    if name not in sys.modules:
        spec = spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        module = sys.modules[name] = module_from_spec(spec)
        try:
            spec.loader.exec_module(module)
        except Exception as error:
            del sys.modules[name]
            raise InputError(f"The plugin '{path}' does not load: {error!r}.") from error
    try:
        found: object = getattr(sys.modules[name], variable)
    except AttributeError:
        raise InputError(f"The plugin '{path}' has no variable {variable}.") from None
    return found


def _allowed() -> list[str]:
    return [name for name in os.environ.get(VARIABLE, "").split(",") if name]
