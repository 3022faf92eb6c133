"""The root command: light to import, and every listed command exists."""

import os
import subprocess
import sys
from pathlib import Path

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


def test_a_package_that_is_not_installed_is_named_in_one_line(tmp_path: Path) -> None:
    code = "import sys; sys.modules['numba'] = None; sys.argv[0] = 'stal-cli'; from cli.main import main; main()"
    words = ["eval", "--predictions", "p.csv", "--ground-truth", "g.csv", "--label-map", "l.pbtxt", "--output", "out"]
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("Error: Evaluation needs numba, which is not installed")
    assert "stal-cli doctor" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("code", [0, 3])
def test_a_command_ends_with_its_code_and_exit_functions_without_taking_modules_apart(code: int) -> None:
    script = (
        "import atexit, sys, cli.main\n"
        "class Module:\n"
        "    def __del__(self): print('taken apart')\n"
        "sys.modules['held'] = Module()\n"
        "def command(**_):\n"
        "    atexit.register(print, 'saved')\n"
        f"    sys.exit({code})\n"
        "cli.main.root = command\n"
        "cli.main.main()\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (code, "saved\n", "")


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


def test_every_number_that_a_command_takes_has_an_upper_bound() -> None:
    numbers = (click.types.IntParamType, click.types.FloatParamType)
    unbounded = [
        f"{name} {parameter.opts[0]}"
        for name, command in _leaves(root, "stal-cli")
        for parameter in command.params
        if isinstance(parameter.type, numbers) and getattr(parameter.type, "max", None) is None
    ]
    assert unbounded == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["serve", "recognizer", "--store", "x", "--grace-s", "nan"], "'nan' must be a number"),
        (["serve", "recognizer", "--store", "x", "--grace-s", "inf"], "is not in the range"),
        (["serve", "recognizer", "--store", "x", "--stage-limit", "9" * 400 + "GB"], "must be a number and MB"),
        (["serve", "detector", "--weights", "x", "--classes", "9" * 5000], "must be whole numbers"),
        (["serve", "detector", "--weights", "x", "--image-size", "0x0"], "must be HEIGHTxWIDTH"),
        (["infer", "--classes", "person"], "must be whole numbers"),
        (["infer", "--image-size", "180"], "must be HEIGHTxWIDTH"),
        *((["infer", "--confidence", end], "is not in the range 0<x<1") for end in "01"),
        *((["detector", "train", "--confidence", end], "is not in the range 0<x<1") for end in "01"),
        (["jobs", "watch", "x", "--from-seq", "9" * 20], "is not in the range"),
        (["detector", "export", "--batch", "9" * 5000], "must be a number from 1 to 1024"),
    ],
)
def test_numbers_that_nothing_can_hold_are_usage_errors(words: list[str], message: str) -> None:
    result = CliRunner().invoke(root, words)
    assert result.exit_code == 2
    assert message in result.stderr


def test_an_unknown_command_offers_the_closest_one() -> None:
    result = CliRunner().invoke(root, ["precomput"])
    assert result.exit_code == 2
    assert "Did you mean 'precompute'?" in result.stderr


def test_a_path_that_cannot_be_written_is_one_line_and_a_traceback_on_request(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    command = [sys.executable, "-m", "cli.main", "dataset", "synth", str(tmp_path / "file" / "data"), "--seed", "0"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert result.stderr.startswith(f"Error: '{tmp_path / 'file'}")
    assert len(result.stderr.splitlines()) == 1
    variables = os.environ | {"STAL_TRACEBACK": "1"}
    shown = subprocess.run(command, capture_output=True, text=True, check=False, env=variables)
    assert shown.returncode == 1
    assert "Traceback (most recent call last)" in shown.stderr


@pytest.mark.parametrize("words", [["--store=~/x"], ["--store", "~/x"]])
def test_a_tilde_is_the_home_folder_wherever_it_begins_a_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    result = CliRunner().invoke(root, ["runs", "list", *words])
    assert f"There is no store at '{tmp_path / 'x'}'" in str(result.exception)


def test_a_tilde_before_nobodys_name_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(root, ["precompute", "data", "--split", "x", "--store=~no-such-user/x"])
    assert (result.exit_code, list(tmp_path.iterdir())) == (2, [])
    assert "there is no user 'no-such-user' here" in result.stderr
