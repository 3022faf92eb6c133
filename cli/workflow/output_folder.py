"""The folder that a workflow fills: new or empty at first, marked as its own from then on, used by one at a time."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cache.files import explaining_full_disk
from stal_data.amounts import amount
from stal_data.errors import ConflictError
from stal_data.file_lock import FileLock

_MARK = ".stal-output.json"


@contextmanager
def claimed(root: Path, command: str) -> Iterator[None]:
    """Hold the output folder of `command`, made when missing, for the block; refuse one that it did not begin."""
    root.mkdir(parents=True, exist_ok=True)
    mark = root / _MARK
    if not mark.exists() and (held := sorted(path.name for path in root.iterdir())):
        names = ", ".join(held[:3]) + (f" and {amount(len(held) - 3, 'other')}" if len(held) > 3 else "")
        raise ConflictError(
            f"The output folder '{root}' holds {names}, but no mark of {command} ({_MARK}), so these may be yours; "
            "nothing was touched. Name a new or empty folder with --output."
        )
    lock = FileLock.take(mark, required=False)
    if lock is None:
        raise ConflictError(
            f"Another {command} is at work in the output folder '{root}'; wait for it, or name another --output."
        )
    with lock:
        wanted = json.dumps({"command": command}).encode()
        found = os.pread(lock.descriptor, 1000, 0)
        if found not in (b"", wanted):
            raise ConflictError(
                f"The output folder '{root}' is that of another command ({found.decode(errors='replace')}); name "
                "another --output."
            )
        with explaining_full_disk(root):
            os.pwrite(lock.descriptor, wanted, 0)
            yield
