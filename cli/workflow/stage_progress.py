"""How far a stage's command is, by what its log says last."""

import os
import re
import time
from pathlib import Path

import click

from cli.ui.progress import LINE_EVERY_S

_COUNT = re.compile(r"\d+( of |/)\d+")
_TAIL_BYTES = 4096


class StageProgress:
    """Repeats the latest count of a log on stderr, at most every ten seconds."""

    def __init__(self, name: str, log: Path) -> None:
        self._name, self._log = name, log
        self._shown, self._next_s = "", time.monotonic() + LINE_EVERY_S

    def look(self) -> None:
        if time.monotonic() < self._next_s:
            return
        self._next_s += LINE_EVERY_S
        with self._log.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - _TAIL_BYTES))
            lines = file.read().decode(errors="replace").splitlines()
        latest = next((line for line in reversed(lines) if _COUNT.search(line) and not line.startswith("$")), "")
        if latest and latest != self._shown:
            self._shown = latest
            click.echo(f"  {self._name}: {latest}", err=True)
