"""Runs a workflow's commands as child processes: one log each, and what is up to date is not made again."""

import json
import os
import shlex
import shutil
import subprocess
import time
import traceback
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any, Self

import click

from cli.workflow.fingerprints import entries_below, fingerprint
from cli.workflow.stage_progress import StageProgress
from stal_data.children import python_command, python_environment
from stal_data.errors import ConflictError, InputError, StalError
from stal_data.files import write_atomically
from stal_data.log_tail import log_tail
from stal_data.owner import owned

SERVICE_START_TIMEOUT_S = 120.0
_STOP_TIMEOUT_S = 120.0
_LOOK_EVERY_S = 0.5


class StageError(StalError):
    """A stage's command failed; carries the end of its log."""


class StartError(StageError):
    """A service that several stages need did not start."""


@dataclass(frozen=True)
class Product:
    """A file or folder that a stage makes.

    parts: glob patterns of what counts of a folder; empty is all of it. beside: of what else the stage leaves there.
    kept: the stage's command replaces or completes what is there, and it may be others' too; so it is never removed.
    """

    path: Path
    parts: tuple[str, ...] = ()
    kept: bool = False
    beside: tuple[str, ...] = ()

    def holds_others(self) -> bool:
        """Whether there are files in the folder that the stage does not make."""
        ours = {found for pattern in (*self.parts, *self.beside) for found in self.path.glob(pattern)}
        found = (entry for entry in entries_below(self.path) if entry.is_symlink() or not entry.is_dir())
        return bool(self.parts) and any(entry not in ours for entry in found)


@dataclass
class Stages:
    """The stages of one output folder, in the order they are run.

    A stage leaves `stages/NAME.json`: its command, digests of what went in and of what it made, and its wall time. It
    is skipped when all of these are as they were. Else its old products are removed first, but only those that are
    still as the stage made them, or that it was interrupted at.

    fresh: run every stage, whatever was done before. digests: of what was read, shared by stages of several folders.
    """

    root: Path
    fresh: bool = False
    wall_s: dict[str, float] = field(default_factory=dict)
    digests: dict[tuple[Path, tuple[str, ...]], str] = field(default_factory=dict)

    def digest(self, path: Path, parts: tuple[str, ...] = ()) -> str:
        """Return the fingerprint of a path; it is worked out again once a stage has made something there."""
        if (path, parts) not in self.digests:
            self.digests[path, parts] = fingerprint(path, parts)
        return self.digests[path, parts]

    def run(
        self,
        name: str,
        *words: str,
        inputs: Mapping[str, str],
        products: Sequence[Product] | Callable[[], Sequence[Product]],
        connection: Callable[[], Sequence[str]] = tuple,
        here: bool = False,
    ) -> None:
        """Run `stal-cli WORDS CONNECTION` as the stage `name`; raise StageError with the log's end when it fails.

        inputs: digests of all that the command reads and that decides what it makes.
        products: or a function that says what was made, where only the command's output tells.
        connection: returns the options that say how a service is reached, called only to run the stage; as they change
        nothing of what the stage makes, it is not run again when they are others.
        here: in this process, which imports torch once for all videos. Not for what decodes files, which may crash it.
        """
        execute = self._call if here else self._execute
        self.make(name, lambda: execute(name, (*words, *connection())), asked=words, inputs=inputs, products=products)

    def make(
        self,
        name: str,
        work: Callable[[], None],
        *,
        asked: Sequence[str],
        inputs: Mapping[str, str],
        products: Sequence[Product] | Callable[[], Sequence[Product]],
    ) -> None:
        """Call `work` as the stage `name`, unless it was called before with the same words and inputs."""
        marker = self.root / "stages" / f"{name}.json"
        wanted = {"command": list(asked), "inputs": {**inputs, "stal": version("stal")}}
        before = _read_marker(marker)
        found = products() if callable(products) else products
        now = self._digests_of(found)
        if not self.fresh and before.items() >= {**wanted, "products": now}.items():
            self.wall_s[name] = float(before["wall_s"])
            click.echo(f"  {name:<40} done before ({self.wall_s[name]:.0f} s)")
            return
        _check_own(name, found, now, before, self._left())
        write_atomically(marker, json.dumps(wanted))  # what is there from now on, this stage has made or half removed
        for product in found:
            if not product.kept:
                _remove(product.path)
        started = time.monotonic()
        try:
            work()
        except BaseException:
            click.echo(f"  {name:<40} failed")
            raise
        self.wall_s[name] = round(time.monotonic() - started, 2)
        click.echo(f"  {name:<40} {self.wall_s[name]:6.1f} s")
        found = products() if callable(products) else products
        self._forget(found)
        made = {"products": self._digests_of(found), "wall_s": self.wall_s[name]}
        write_atomically(marker, json.dumps(wanted | made))

    def _left(self) -> set[tuple[str, str]]:
        """Paths and digests of what all stages left, of which several may make the same file in different ways."""
        markers = map(_read_marker, (self.root / "stages").glob("*.json"))
        return {item for marker in markers for item in (marker.get("products") or {}).items()}

    def log(self, name: str) -> Path:
        """Return where the output of a stage's command is."""
        return self.root / "logs" / f"{name}.log"

    def _digests_of(self, products: Sequence[Product]) -> dict[str, str]:
        return {str(product.path): self.digest(product.path, product.parts) for product in products}

    def _forget(self, products: Sequence[Product]) -> None:
        for known in list(self.digests):
            if any(known[0].is_relative_to(p.path) or p.path.is_relative_to(known[0]) for p in products):
                del self.digests[known]

    def _execute(self, name: str, words: Sequence[str]) -> None:
        log_path = self.log(name)
        log_path.parent.mkdir(parents=True, exist_ok=True)
        with log_path.open("wb") as log:
            log.write(f"$ stal-cli {shlex.join(words)}\n".encode())
            log.flush()
            process = _start(words, log)
            try:
                progress = StageProgress(name, log_path)
                while (code := _exit_code(process)) is None:
                    progress.look()
            finally:
                _end(process)
        if code != 0:
            raise self._failed(name, f" with exit code {code}", words)

    def _call(self, name: str, words: Sequence[str]) -> None:
        """Do the same in this process."""
        from cli.main import root

        self.log(name).parent.mkdir(parents=True, exist_ok=True)
        command = root.get_command(click.Context(root), words[0])
        assert command is not None
        with self.log(name).open("w", encoding="utf-8") as log, redirect_stdout(log), redirect_stderr(log):
            log.write(f"$ stal-cli {shlex.join(words)}\n")
            try:
                command.main(list(words[1:]), standalone_mode=False)
            except Exception as error:
                log.write(f"Error: {error}\n" if isinstance(error, StalError) else traceback.format_exc())
                log.flush()
                raise self._failed(name, "", words) from error

    def _failed(self, name: str, how: str, words: Sequence[str]) -> StageError:
        log_path = self.log(name)
        return StageError(
            f"stage {name} failed{how}: stal-cli {shlex.join(words)}\n{log_tail(log_path)}\n"
            f"The whole log is {log_path}; run the same command again to go on from this stage."
        )


def _check_own(
    name: str,
    products: Sequence[Product],
    now: Mapping[str, str],
    before: Mapping[str, Any],
    left: Collection[tuple[str, str]],
) -> None:
    """Refuse to remove what the stage did not make, or what was changed since."""
    interrupted = bool(before) and before.get("products") is None
    for product in products:
        path, found = str(product.path), now[str(product.path)]
        if product.kept or not os.path.lexists(product.path):
            continue
        if (interrupted or (path, found) in left) and not product.holds_others():
            continue
        how = "files in it were changed or added" if product.path.is_dir() else "it was changed"
        raise ConflictError(
            f"'{path}' is to be made again, but is not as stage {name} left it ({how}), so it was not removed. Move it "
            "away, or name another --output."
        )


def _start(words: Sequence[str], log: IO[bytes]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        python_command("cli.main", *words),
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        env=owned(python_environment()),
        # Ctrl-C in the terminal is for this process alone, which ends the child in order.
        start_new_session=True,
    )


def _exit_code(process: subprocess.Popen[bytes]) -> int | None:
    """Wait for a moment; None while it runs."""
    try:
        return process.wait(_LOOK_EVERY_S)
    except subprocess.TimeoutExpired:
        return None


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
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _read_marker(path: Path) -> dict[str, Any]:
    """Return what a stage has noted; nothing where it never began. `products` are missing where it has not ended."""
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"'{path}' cannot be read ({error}); name another --output.") from None


class Service:
    """A service of ours in a child process on loopback, on a port of its own choosing.

    It starts when its address is asked for, so never where every stage that calls it was done before.
    """

    def __init__(self, name: str, root: Path, *options: str) -> None:
        self.name = name
        self._log_path = root / "logs" / f"serve-{name}.log"
        self._port_file = root / f"{name}.port"
        self._options = ("--port", "0", "--port-file", str(self._port_file), *options)
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        return self

    @cached_property
    def address(self) -> str:
        """HOST:PORT of the running service; StartError where it does not start."""
        self._port_file.unlink(missing_ok=True)
        self._log_path.parent.mkdir(parents=True, exist_ok=True)
        with self._log_path.open("wb") as log:
            self._process = _start(("serve", self.name, *self._options), log)
        deadline = time.monotonic() + SERVICE_START_TIMEOUT_S
        while time.monotonic() < deadline:
            if self._port_file.exists():
                return f"127.0.0.1:{int(self._port_file.read_text().strip().rsplit(':', 1)[-1])}"
            if self._process.poll() is not None:
                raise StartError(f"the {self.name} service did not start:\n{log_tail(self._log_path)}")
            time.sleep(0.05)
        raise StartError(
            f"the {self.name} service was not ready within {SERVICE_START_TIMEOUT_S:.0f} s; its log: {self._log_path}"
        )

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            _end(self._process)
        self._port_file.unlink(missing_ok=True)
