"""A recognizer service of one command: started on a free loopback port, gone when the command is."""

import os
import select
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import click
import grpc

from cli.stage import StageOptions
from stal_data.children import python_command, python_environment
from stal_data.errors import StalError
from svc_common.config import ClientConfig
from svc_common.errors import ServiceError

_START_TIMEOUT_S = 120.0
_POLL_S = 0.05
_LOG_TAIL_BYTES = 4000


class PrivateServiceError(StalError):
    """The service of this command did not start."""


@contextmanager
def recognizer_at(
    client: ClientConfig | None,
    store_url: str | None,
    *,
    data_root: Path | None = None,
    stage: StageOptions | None = None,
) -> Iterator[ClientConfig]:
    """The recognizer at the given address, or else a private one on the given store for as long as the block runs.

    data_root: of the private one; folder below which it may read data sets. stage: of the private one, too.
    """
    if client is not None:
        yield client
        return
    if store_url is None:
        raise click.UsageError("Give --store STORE, or the address of a running service with --recognizer HOST:PORT.")
    options = ["--store", store_url] + ([] if data_root is None else ["--data-root", str(data_root)])
    with _private_recognizer([*options, *([] if stage is None else stage.words())]) as address:
        yield ClientConfig(address=address)


class _Output:
    """The end of what a process writes, kept in memory: a full disk is no reason for it to end or to say nothing."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        self._pipe, self._end, self._lock = process.stdout, b"", threading.Lock()
        os.set_blocking(self._pipe.fileno(), False)
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        ready = select.poll()
        ready.register(self._pipe, select.POLLIN)
        while self._drain():
            ready.poll()

    def _drain(self) -> bool:
        """Take what is in the pipe; False when nobody can write to it any more."""
        with self._lock, suppress(BlockingIOError):
            while not self._pipe.closed:
                if data := os.read(self._pipe.fileno(), 1 << 16):
                    self._end = (self._end + data)[-_LOG_TAIL_BYTES:]
                else:
                    self._pipe.close()
        return not self._pipe.closed

    def end(self) -> str:
        """All that has been written, cut to its last lines."""
        self._drain()
        return self._end.decode(errors="replace").strip()


@contextmanager
def _private_recognizer(options: list[str]) -> Iterator[str]:
    # Gone once the service is up, so that even SIGKILL of this process leaves none.
    with _temporary_folder() as folder:
        port_file = Path(folder, "port")
        process = _start(options, port_file)
        output = _Output(process)
        try:
            address = _wait_until_ready(process, port_file, output)
        except BaseException:
            process.terminate()  # it may not read its stdin yet, and has no job that a second signal could hurt
            _stop(process)
            raise
    try:
        yield address
    except ServiceError as error:
        # Nobody but this command can have its output.
        if process.poll() is not None:
            raise PrivateServiceError(
                f"The private recognizer service has ended with exit code {process.returncode}, after:\n{output.end()}"
            ) from error
        if error.code is grpc.StatusCode.INTERNAL:
            raise PrivateServiceError(f"{error}. Its last lines:\n{output.end()}") from error
        raise
    finally:
        _stop(process)


def _temporary_folder() -> "tempfile.TemporaryDirectory[str]":
    try:
        return tempfile.TemporaryDirectory(prefix="stal-")
    except OSError as error:
        raise PrivateServiceError(
            f"A private service needs a temporary folder, and there is no space in TMPDIR, or no right to write there "
            f"({error.strerror}). Make room, or let TMPDIR name another folder."
        ) from error


def _start(options: list[str], port_file: Path) -> subprocess.Popen[bytes]:
    words = ["serve", "recognizer", "--private", *options, "--port", "0", "--port-file", str(port_file)]
    return subprocess.Popen(
        python_command("cli.main", *words),
        # The service ends when this pipe does, so it cannot outlive a command that was killed.
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=python_environment(),
        # Ctrl-C in the terminal is for the command alone; the command then ends the service in order.
        start_new_session=True,
    )


def _wait_until_ready(process: subprocess.Popen[bytes], port_file: Path, output: _Output) -> str:
    """HOST:PORT of the service. It writes the port file when its health check says ready."""
    deadline = time.monotonic() + _START_TIMEOUT_S
    while not port_file.exists():
        if process.poll() is not None:
            raise PrivateServiceError(f"The private recognizer service did not start:\n{output.end()}")
        if time.monotonic() > deadline:
            raise PrivateServiceError(
                f"The private recognizer service was not ready within {_START_TIMEOUT_S:g} s:\n{output.end()}"
            )
        time.sleep(_POLL_S)
    return f"127.0.0.1:{int(port_file.read_text())}"


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End the service; jobs that it still runs are cancelled, each with a checkpoint."""
    assert process.stdin is not None
    # At this it sends SIGTERM to itself. A second one, now or when this process dies while it waits, would kill the
    # service before its jobs have ended.
    process.stdin.close()
    while True:
        try:
            process.wait()
        except KeyboardInterrupt:
            click.echo("Still stopping: the training writes its checkpoint.", err=True)
        else:
            return
