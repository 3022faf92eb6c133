"""How far a precompute run is: bars on a terminal, else a line now and then, both on stderr; or lines of JSON."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from cli.ui.json_output import print_json_line

if TYPE_CHECKING:
    from cache.precompute import Phase, Progress

PLAIN_LINE_S = 10.0  # seconds between progress lines where stderr is no terminal
_PHASE_TEXT: dict["Phase", str] = {"check": "checking frames", "extract": "computing features"}


@contextmanager
def extraction_progress() -> "Iterator[Progress]":
    """Yield what shows the progress."""
    from rich.console import Console

    console = Console(stderr=True)
    if not console.is_terminal:
        yield _PlainLines()
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    rate = TextColumn("{task.fields[rate]}")
    with Progress(
        "{task.description}", BarColumn(), MofNCompleteColumn(), rate, TimeRemainingColumn(), console=console
    ) as bar:
        tasks: dict[Phase, Any] = {}
        rates: dict[Phase, _Rate] = {}

        def show(phase: "Phase", done: int, total: int) -> None:
            if phase not in tasks:
                # Rows that an earlier run left behind are not this run's speed.
                tasks[phase], rates[phase] = bar.add_task(_PHASE_TEXT[phase], total=total, rate=""), _Rate(done)
                bar.update(tasks[phase], completed=done)
                bar.reset(tasks[phase], completed=done)
            bar.update(tasks[phase], completed=done, rate=f"{rates[phase].per_second(done):.1f} clips/s")

        yield show


@contextmanager
def json_progress() -> "Iterator[Progress]":
    """Yield what prints a line of JSON for each step."""
    yield lambda phase, done, total: print_json_line({"phase": phase, "done": done, "total": total})


class _Rate:
    def __init__(self, done: int) -> None:
        self._start, self._first = time.monotonic(), done

    def per_second(self, done: int) -> float:
        return (done - self._first) / max(time.monotonic() - self._start, 1e-9)


class _PlainLines:
    """Prints a line at the start and the end of a phase, and every PLAIN_LINE_S between."""

    def __init__(self) -> None:
        self._rates: dict[Phase, _Rate] = {}
        self._next_s = 0.0

    def __call__(self, phase: "Phase", done: int, total: int) -> None:
        first = phase not in self._rates
        rate = self._rates.setdefault(phase, _Rate(done))
        now = time.monotonic()
        if first:
            click.echo(f"{_PHASE_TEXT[phase]}: {done} of {total} key frames done", err=True)
        elif done == total or now >= self._next_s:
            speed = rate.per_second(done)
            left = f", {(total - done) / speed:.0f} s left" if speed and done < total else ""
            click.echo(f"{_PHASE_TEXT[phase]}: {done} of {total}, {speed:.1f} clips/s{left}", err=True)
        else:
            return
        self._next_s = now + PLAIN_LINE_S
