"""Files that only their owner should read: tokens and private keys."""

import logging
import stat
from functools import cache
from pathlib import Path

log = logging.getLogger(__name__)


def warn_of_readable(**files: Path | None) -> None:
    """Warn, once in a process, of each file that every user of the machine can read; the names are those of options."""
    for field, path in files.items():
        if path is not None:
            _warn(f"--{field.replace('_', '-')}", path.absolute())


@cache
def _warn(option: str, path: Path) -> None:
    if path.stat().st_mode & stat.S_IROTH:
        log.warning("%s '%s' can be read by every user of this machine; close it with: chmod o= FILE", option, path)
