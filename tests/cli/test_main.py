"""The root command: light to import, and every listed command exists."""

import subprocess
import sys

import click
import pytest
from click.testing import CliRunner

from cli.main import COMMANDS, root

HEAVY = ("torch", "grpc", "zarr", "h5py", "av", "PIL", "pandas", "numba", "ultralytics", "matplotlib")


@pytest.mark.parametrize("arguments", [["--help"], ["no-such-command"]])
def test_help_and_usage_errors_import_nothing_heavy(arguments: list[str]) -> None:
    code = (
        "import sys\n"
        "from cli.main import root\n"
        f"try:\n    root({arguments!r})\nexcept SystemExit:\n    pass\n"
        f"print(sorted(set({HEAVY!r}) & set(sys.modules)))\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_has_help_with_its_options_explained(name: str) -> None:
    result = CliRunner().invoke(root, [name, "--help"])
    assert result.exit_code == 0, result.output
    assert "Usage:" in result.output


def _leaves(command: click.Command, name: str) -> list[tuple[str, click.Command]]:
    if not isinstance(command, click.Group):
        return [(name, command)]
    context = click.Context(command)
    found = []
    for child in command.list_commands(context):
        below = command.get_command(context, child)
        assert below is not None, f"{name} {child}"
        found += _leaves(below, f"{name} {child}")
    return found


def test_every_option_of_every_command_has_a_help_text() -> None:
    silent = [
        f"{name} {parameter.opts[0]}"
        for name, command in _leaves(root, "stal-cli")
        for parameter in command.params
        if isinstance(parameter, click.Option) and not parameter.help
    ]
    assert silent == []


def test_an_unknown_command_offers_the_closest_one() -> None:
    result = CliRunner().invoke(root, ["precomput"])
    assert result.exit_code == 2
    assert "Did you mean 'precompute'?" in result.stderr
