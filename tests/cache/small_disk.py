"""A file system of 8 MB for a child process alone, which may fill it up."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

# The mount is seen by nobody else and goes with the child, however it ends.
ALONE = ["unshare", "--mount"]
MOUNT = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs"]


def run_on_small_disk(module: str, tmp_path: Path, *arguments: str) -> None:
    """Run a module that calls `mount` and prints `done`; its first argument is the folder to mount on."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if shutil.which("unshare") is None:
        pytest.skip("there is no unshare here, so no file system can be mounted for the test alone")
    allowed = subprocess.run([*ALONE, *MOUNT, str(disk)], capture_output=True, text=True, check=False)
    if allowed.returncode:
        pytest.skip(f"no right to mount a file system here: {allowed.stderr.strip()}")
    command = [*ALONE, sys.executable, "-m", module, str(disk), *arguments]
    run = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False)
    assert (run.stdout, run.returncode) == ("done\n", 0), run.stderr


def mount(disk: Path) -> None:
    subprocess.run([*MOUNT, str(disk)], check=True)


def fill(disk: Path, *, left: int) -> Path:
    """Leave so many bytes free; return the file that takes the others."""
    ballast, state = disk / "ballast", os.statvfs(disk)
    ballast.write_bytes(bytes(state.f_bavail * state.f_frsize - left))
    return ballast
