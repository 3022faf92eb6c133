"""A recognizer service of one command: started on a free loopback port, gone when the command is."""

import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import click

from cli.stage import StageOptions
from stal_data.children import python_command, python_environment
from stal_data.errors import StalError
from stal_data.owner import owned
from svc_common.config import ClientConfig

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


@contextmanager
def _private_recognizer(options: list[str]) -> Iterator[str]:
    # Both files are gone once the service is up, so that even SIGKILL of this process leaves none.
    with tempfile.TemporaryDirectory(prefix="stal-") as folder:
        port_file, log_path = Path(folder, "port"), Path(folder, "log")
        with log_path.open("wb") as output:
            process = _start(options, port_file, output)
        log = log_path.open("rb")
        try:
            address = _wait_until_ready(process, port_file, log)
        except BaseException:
            _stop(process)
            log.close()
            raise
    try:
        yield address
    finally:
        _stop(process)
        log.close()


def _start(options: list[str], port_file: Path, output: IO[bytes]) -> subprocess.Popen[bytes]:
    words = ["serve", "recognizer", "--private", *options, "--port", "0", "--port-file", str(port_file)]
    return subprocess.Popen(
        python_command("cli.main", *words),
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        env=owned(python_environment()),
        # Ctrl-C in the terminal is for the command alone; the command then ends the service in order.
        start_new_session=True,
    )


def _wait_until_ready(process: subprocess.Popen[bytes], port_file: Path, log: IO[bytes]) -> str:
    """HOST:PORT of the service. It writes the port file when its health check says ready."""
    deadline = time.monotonic() + _START_TIMEOUT_S
    while not port_file.exists():
        if process.poll() is not None:
            raise PrivateServiceError(f"The private recognizer service did not start:\n{_tail(log)}")
        if time.monotonic() > deadline:
            raise PrivateServiceError(
                f"The private recognizer service was not ready within {_START_TIMEOUT_S:g} s:\n{_tail(log)}"
            )
        time.sleep(_POLL_S)
    return f"127.0.0.1:{int(port_file.read_text())}"


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End the service; jobs that it still runs are cancelled, each with a checkpoint."""
    process.terminate()  # only once: a second one would kill the service before its jobs have ended
    while True:
        try:
            process.wait()
        except KeyboardInterrupt:
            click.echo("Still stopping: the training writes its checkpoint.", err=True)
        else:
            return


def _tail(log: IO[bytes]) -> str:
    log.seek(0, os.SEEK_END)
    log.seek(max(log.tell() - _LOG_TAIL_BYTES, 0))
    return log.read().decode(errors="replace").strip()
