"""Children that run Python: what they import."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from stal_data.children import python_command, python_environment
from tests.hostile import STAL_CLI, hostile_folder

ROOT = Path(__file__).parents[2]


VERSION = python_command("cli.main", "--version")
GRANDCHILD = [sys.executable, "-m", "cli.main", "--version"]  # as a library would start it


# An empty entry of PYTHONPATH is the working folder.
@pytest.mark.parametrize("paths", ["", f"{ROOT}:", f":{ROOT}"])
@pytest.mark.parametrize("command", [VERSION, GRANDCHILD], ids=["child", "grandchild"])
def test_nothing_of_the_working_folder_is_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: list[str], paths: str
) -> None:
    monkeypatch.setenv("PYTHONPATH", paths)
    done = subprocess.run(
        command, cwd=hostile_folder(tmp_path), env=python_environment(), capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_synthetic_data_is_rendered_in_any_working_folder(tmp_path: Path) -> None:
    words = ["dataset", "synth", str(tmp_path / "data"), "--seed", "0", "--train-videos", "1", "--test-videos", "1"]
    done = subprocess.run(
        [STAL_CLI, *words],
        cwd=hostile_folder(tmp_path),
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
