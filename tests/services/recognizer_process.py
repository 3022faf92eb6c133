"""The recognizer service as users start it, in a process of its own."""

import os
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from click.testing import CliRunner

import cli
from cli.main import root
from stal_data.errors import StalError
from svc_common.config import ClientConfig
from tests.hostile import STAL_CLI, hostile_folder

START_TIMEOUT_S = 300
ROOT = Path(cli.__file__).parent.parent
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "COLUMNS": "200"}


@dataclass(frozen=True)
class Finished:
    """A command that has ended."""

    returncode: int
    stdout: str
    stderr: str


def stal_cli(*words: str) -> Finished:
    """Run a command in this process, as `cli.main.main` would: starting Python costs more than most of them."""
    result = CliRunner().invoke(root, words)
    if isinstance(result.exception, StalError):
        return Finished(1, result.stdout, f"{result.stderr}Error: {result.exception}\n")
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Finished(result.exit_code, result.stdout, result.stderr)


class RecognizerProcess:
    """`stal-cli serve recognizer` on a free port, and on the same one when it is started again."""

    def __init__(self, store: Path, folder: Path, *options: str) -> None:
        self._folder = folder
        self._options = ("--store", str(store), *options)
        self._port = 0
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._port}"

    @property
    def client(self) -> ClientConfig:
        return ClientConfig(address=self.address)

    @property
    def log(self) -> str:
        return (self._folder / "service.log").read_text()

    def start(self) -> Self:
        port_file = self._folder / "port"
        port_file.unlink(missing_ok=True)
        words = ["serve", "recognizer", *self._options, "--port", str(self._port), "--port-file", str(port_file)]
        with (self._folder / "service.log").open("ab") as log:
            self.process = subprocess.Popen(
                [STAL_CLI, *words],
                cwd=hostile_folder(self._folder),
                env=ENVIRONMENT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        deadline = time.monotonic() + START_TIMEOUT_S
        while not port_file.exists():
            assert self.process.poll() is None, self.log
            assert time.monotonic() < deadline, self.log
            time.sleep(0.05)
        self._port = int(port_file.read_text())
        return self

    def kill(self) -> None:
        """SIGKILL, as by the out-of-memory killer."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        """SIGTERM; returns the exit code."""
        assert self.process is not None
        self.process.terminate()
        return self.process.wait(250)


def unused_port() -> int:
    """A port at which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
