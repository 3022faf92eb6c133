"""Runs a workflow's commands as child processes: one log each, finished ones are not run again."""

import json
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Self

import click

from stal_data.errors import StalError
from stal_data.owner import owned

SERVICE_START_TIMEOUT_S = 120.0
_STOP_TIMEOUT_S = 120.0
# Services take a free port each time they start, so an address says nothing about what a stage made.
_LOOPBACK_ADDRESS = re.compile(r"127\.0\.0\.1:\d+")


class StageError(StalError):
    """A stage's command failed; carries the end of its log."""


def cli_command(*words: str) -> list[str]:
    """Return the argument list that runs `stal-cli WORDS` with this very interpreter."""
    return [sys.executable, "-m", "cli.main", *words]


@dataclass
class Stages:
    """The stages of one output folder, in the order they are run.

    A finished stage leaves `stages/NAME.json` with its command and wall time; it is skipped when the same command
    is asked for again and nothing before it had to run. What a stage `produces` is removed before it runs, unless
    the stage is `resumable` and was only interrupted.
    """

    root: Path
    wall_s: dict[str, float] = field(default_factory=dict)
    restart: bool = False

    def run(
        self, name: str, *words: str, produces: Path, connection: Sequence[str] = (), resumable: bool = False
    ) -> None:
        """Run `stal-cli WORDS CONNECTION` as the stage `name`; raise StageError with the log's end when it fails.

        connection: options that say how a service is reached; as they change nothing of what the stage makes, it is
        not run again when they are others.
        """
        stable = [word for word in words if not _LOOPBACK_ADDRESS.fullmatch(word)]
        marker = self.root / "stages" / f"{name}.json"
        if not self.restart and (done := _read_marker(marker, stable)) is not None:
            self.wall_s[name] = done
            click.echo(f"  {name:<40} done before ({done:.0f} s)")
            return
        if self.restart or not resumable:
            _remove(produces)
        self.restart = True  # what follows was made from this stage's old result
        marker.unlink(missing_ok=True)
        click.echo(f"  {name:<40} ", nl=False)
        started = time.monotonic()
        self._execute(name, (*words, *connection))
        self.wall_s[name] = round(time.monotonic() - started, 2)
        click.echo(f"{self.wall_s[name]:6.1f} s")
        marker.parent.mkdir(exist_ok=True)
        unfinished = marker.with_suffix(".tmp")
        unfinished.write_text(json.dumps({"command": stable, "wall_s": self.wall_s[name]}))
        unfinished.replace(marker)

    def _execute(self, name: str, words: Sequence[str]) -> None:
        log_path = self.root / "logs" / f"{name}.log"
        log_path.parent.mkdir(parents=True, exist_ok=True)
        with log_path.open("wb") as log:
            log.write(f"$ stal-cli {shlex.join(words)}\n".encode())
            log.flush()
            process = _start(words, log)
            try:
                code = process.wait()
            finally:
                _end(process)
        if code != 0:
            click.echo("failed")
            raise StageError(
                f"stage {name} failed with exit code {code}: stal-cli {shlex.join(words)}\n{_tail(log_path)}\n"
                f"The whole log is {log_path}; run the same command again to go on from this stage."
            )


def _start(words: Sequence[str], log: IO[bytes]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        cli_command(*words),
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        env=owned(),
        # Ctrl-C in the terminal is for this process alone, which ends the child in order.
        start_new_session=True,
    )


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a child that still runs; a service whose jobs write checkpoints needs its time."""
    if process.poll() is None:
        process.terminate()
    try:
        process.wait(_STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _read_marker(path: Path, command: list[str]) -> float | None:
    try:
        marker = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return float(marker["wall_s"]) if marker.get("command") == command else None


def _tail(path: Path, lines: int = 20) -> str:
    with path.open(errors="replace") as file:
        return "".join(f"    {line}" for line in deque(file, maxlen=lines)).rstrip()


class Service:
    """A service of ours in a child process on loopback, on a port of its own choosing."""

    def __init__(self, name: str, root: Path, *options: str) -> None:
        self.name = name
        self._log_path = root / "logs" / f"serve-{name}.log"
        self._port_file = root / f"{name}.port"
        self._options = ("--port", "0", "--port-file", str(self._port_file), *options)
        self._process: subprocess.Popen[bytes] | None = None
        self.address = ""

    def __enter__(self) -> Self:
        self._port_file.unlink(missing_ok=True)
        self._log_path.parent.mkdir(parents=True, exist_ok=True)
        with self._log_path.open("wb") as log:
            self._process = _start(("serve", self.name, *self._options), log)
        try:
            self.address = self._wait_for_address()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _wait_for_address(self) -> str:
        assert self._process is not None
        deadline = time.monotonic() + SERVICE_START_TIMEOUT_S
        while time.monotonic() < deadline:
            if self._port_file.exists():
                return f"127.0.0.1:{int(self._port_file.read_text().strip().rsplit(':', 1)[-1])}"
            if self._process.poll() is not None:
                raise StageError(f"the {self.name} service did not start:\n{_tail(self._log_path)}")
            time.sleep(0.05)
        raise StageError(
            f"the {self.name} service was not ready within {SERVICE_START_TIMEOUT_S:.0f} s; its log: {self._log_path}"
        )

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            _end(self._process)
        self._port_file.unlink(missing_ok=True)
