"""The end of a log that a child process writes, for the error that says the child failed."""

from pathlib import Path
from textwrap import indent

_LINES = 20
_BYTES = 16384


def log_tail(path: Path) -> str:
    """Return the last lines, indented, or words that say there are none."""
    try:
        with path.open("rb") as file:
            file.seek(max(path.stat().st_size - _BYTES, 0))
            lines = file.read().decode(errors="replace").splitlines()[-_LINES:]
    except FileNotFoundError:
        lines = []
    return indent("\n".join(lines) or "(no output)", "    ")
