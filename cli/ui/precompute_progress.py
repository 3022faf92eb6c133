"""How far a precompute run is: bars on a terminal, else a line now and then; both on stderr."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from cache.precompute import Progress, Stage

PLAIN_LINE_S = 10.0  # seconds between progress lines where stderr is no terminal
STAGE_TEXT: dict["Stage", str] = {"check": "checking frames", "extract": "computing features"}


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
        tasks: dict[Stage, Any] = {}
        rates: dict[Stage, _Rate] = {}

        def show(stage: "Stage", done: int, total: int) -> None:
            if stage not in tasks:
                # Rows that an earlier run left behind are not this run's speed.
                tasks[stage], rates[stage] = bar.add_task(STAGE_TEXT[stage], total=total, rate=""), _Rate(done)
                bar.update(tasks[stage], completed=done)
                bar.reset(tasks[stage], completed=done)
            bar.update(tasks[stage], completed=done, rate=f"{rates[stage].per_second(done):.1f} clips/s")

        yield show


class _Rate:
    """Clips a second since it was made."""

    def __init__(self, done: int) -> None:
        self._start, self._first = time.monotonic(), done

    def per_second(self, done: int) -> float:
        return (done - self._first) / max(time.monotonic() - self._start, 1e-9)


class _PlainLines:
    """Prints a line at the start and the end of a stage, and every PLAIN_LINE_S between."""

    def __init__(self) -> None:
        self._rates: dict[Stage, _Rate] = {}
        self._next_s = 0.0

    def __call__(self, stage: "Stage", done: int, total: int) -> None:
        first = stage not in self._rates
        rate = self._rates.setdefault(stage, _Rate(done))
        now = time.monotonic()
        if first:
            click.echo(f"{STAGE_TEXT[stage]}: {done} of {total} key frames done", err=True)
        elif done == total or now >= self._next_s:
            speed = rate.per_second(done)
            left = f", {(total - done) / speed:.0f} s left" if speed and done < total else ""
            click.echo(f"{STAGE_TEXT[stage]}: {done} of {total}, {speed:.1f} clips/s{left}", err=True)
        else:
            return
        self._next_s = now + PLAIN_LINE_S
