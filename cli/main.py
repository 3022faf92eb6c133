"""The root command. `--help` lists the commands without importing them, so it needs neither torch nor grpc."""

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, NoReturn, TextIO

import click

from cli.lazy import LazyGroup
from cli.ui.quick_exit import QuickExit
from cli.ui.sigterm import unwound_by_sigterm
from stal_data.children import safe_path
from stal_data.errors import StalError
from stal_data.files import naming
from stal_data.owner import end_with_owner
from stal_data.plugins import allow_plugins

TRACEBACK_VARIABLE = "STAL_TRACEBACK"

# name -> (module:attribute, help line); the module is imported when the command runs.
COMMANDS = {
    "dataset": ("cli.commands.dataset:dataset", "Render, validate and describe data sets."),
    "detector": ("cli.commands.detector:detector", "Train and export the person detector."),
    "backbone": ("cli.commands.backbone:backbone", "Train a small backbone as a stand-in for pre-training."),
    "weights": ("cli.commands.weights:weights", "Import published checkpoints, describe weight files."),
    "serve": ("cli.commands.serve:serve", "Start the detector or the recognizer service."),
    "detect": ("cli.commands.detect:detect", "Write person proposals through the detector service."),
    "precompute": ("cli.commands.precompute:precompute", "Run the backbones once and fill the feature cache."),
    "cache": ("cli.commands.cache:cache", "List, check, move and delete what is in the cache."),
    "train": ("cli.commands.train:train", "Train a head on cached features."),
    "sweep": ("cli.commands.sweep:sweep", "Train a grid of settings with several seeds and choose the best."),
    "jobs": ("cli.commands.jobs:jobs", "List, watch and cancel training jobs."),
    "runs": ("cli.commands.runs:runs", "List, compare, tag and delete trained runs."),
    "models": ("cli.commands.models:models", "Pack a trained head; load heads into a running recognizer."),
    "predict": ("cli.commands.predict:predict", "Score a split and write a predictions file."),
    "eval": ("cli.commands.evaluate:evaluate", "Capacity-swept mAP of a predictions file; compare two results."),
    "segments": ("cli.commands.segments:segments", "When each tracked person performs which action."),
    "infer": ("cli.commands.infer:infer", "Videos in, actions out: detect, precompute and predict in one command."),
    "watch": ("cli.commands.watch:watch", "Recognize actions live: a camera, rtsp://, http(s)://, or a file."),
    "demo": ("cli.commands.demo:demo", "The whole workflow on synthetic data, on this machine."),
    "status": ("cli.commands.status:status", "Every configured service in one table."),
    "health": ("cli.commands.health:health", "Ask one service whether it is ready (for exec probes)."),
    "doctor": ("cli.commands.doctor:doctor", "Check this installation."),
}


@click.command(
    cls=LazyGroup, lazy=COMMANDS, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.option(
    "--allow-plugin",
    "plugins",
    multiple=True,
    metavar="NAME",
    help="Repeatable: a head, backbone or format that may be loaded, of another package or from a file, FILE.py:NAME.",
)
@click.version_option(package_name="stal", prog_name="stal-cli")
def root(plugins: tuple[str, ...]) -> None:
    """Spatio-temporal action localization: who is where, doing what, at every second of a video.

    \b
    Detect people, compute the expensive features once, then train and compare heads in minutes:
      stal-cli dataset synth data --seed 0
      stal-cli precompute data --split train --store store ...
      stal-cli train acar.yaml --store store
      stal-cli eval --predictions predictions.csv --ground-truth data/annotations/test_gt.csv ...
    """
    allow_plugins(plugins)


def main() -> None:
    """Entry point: a user's mistake is one line on stderr and exit code 1, without a traceback.

    So is a package that is not installed, an error of the system that names a file, such as a missing right, and a
    disk, a quota or a standard output that takes no more; STAL_TRACEBACK=1 shows where it arose.
    """
    end_with_owner()
    quick_exit = QuickExit()
    try:
        _run()
    except SystemExit as end:
        quick_exit.code = end.code if isinstance(end.code, int) else None
        raise


def _run() -> None:
    try:
        with unwound_by_sigterm(), safe_path(), _naming_output():
            root(standalone_mode=True)
    except StalError as error:
        _fail(str(error))
    except ModuleNotFoundError as error:
        if os.environ.get(TRACEBACK_VARIABLE):
            raise
        _fail(f"{error}. 'stal-cli doctor' lists the extras, what each lacks and how to install it.")
    except OSError as error:
        where = _file_of(error)
        if where is None or os.environ.get(TRACEBACK_VARIABLE):
            raise
        way_out = f"Correct that or choose another path; {TRACEBACK_VARIABLE}=1 shows where it arose."
        _fail(f"{where}: {error.strerror or error}. {way_out}")


@contextmanager
def _naming_output() -> Iterator[None]:
    """Let errors of standard output name it, also those that would come when Python ends."""
    output = sys.stdout
    if output is None:  # it was closed when the process started
        yield
        return
    sys.stdout = named = _Output(output)
    try:
        try:
            yield
        finally:
            named.flush()
    except OSError as error:
        if error.filename == _Output.NAME:
            os.dup2(os.open(os.devnull, os.O_WRONLY), output.fileno())  # so that nothing tries again
            if error.errno == errno.EPIPE:  # as in `stal-cli ... | head`
                sys.exit(1)
        raise
    finally:
        sys.stdout = output


class _Output:
    """Standard output, whose errors name no file otherwise."""

    NAME = "standard output"

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        with naming(self.NAME):
            return self._stream.write(text)

    def flush(self) -> None:
        with naming(self.NAME):
            self._stream.flush()


def _file_of(error: OSError) -> str | None:
    """The file that an error is about, as far as it says; None where it may be about anything."""
    names = [f"'{name}'" for name in (error.filename, error.filename2) if name is not None]
    if not names and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return "A file could not be written"
    return " and ".join(names) or None


def _fail(text: str) -> NoReturn:
    with suppress(OSError):  # standard error may be full, too
        click.echo(f"Error: {text}", err=True)
    sys.exit(1)


if __name__ == "__main__":
    main()
