"""What files hold, as digests: by these, not by names or times, a stage knows what went into it and what it made."""

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from cache.backbones import BACKBONES
from stal_data.digests import sha256_of
from stal_data.errors import ConflictError

ABSENT = "absent"

RUN_PARTS = (
    *("recipe.yaml", "label_map.pbtxt", *(f"{kind}{end}.safetensors" for kind in BACKBONES for end in ("", "-latest"))),
    *(f"checkpoints/{name}{suffix}" for name in ("best", "latest") for suffix in (".safetensors", ".pt")),
)
"""What decides the scores of a run."""
RUN_BESIDE = (
    *("provenance.json", "events.jsonl", "state.json", "tags.json", "tensorboard/events.out.*", "job/**/*"),
    *(".*.partial", "checkpoints/.*.partial"),
)
"""What else training leaves in a run, and the tags that a user gave it."""
FEATURE_SET_PARTS = ("zarr.json", "digest", "source")
"""What tells feature sets apart: the spec, a digest of each row, and one of the frames behind it."""


def fingerprint(path: Path, parts: Sequence[str] = ()) -> str:
    """Return a digest of a file, or of the names and contents of all that a folder holds; ABSENT where there is none.

    parts: glob patterns; of a folder only what fits one of them. A link counts as the path that it holds.
    """
    if path.is_file():
        return sha256_of(path)
    if not path.is_dir():
        return ABSENT
    chosen = {found for part in parts for found in path.glob(part)}
    if parts and not chosen:
        return ABSENT
    found = chosen | {entry for root in chosen or {path} for entry in entries_below(root)}
    return digest_of(sorted([entry.relative_to(path).as_posix(), _of_entry(entry)] for entry in found))


def digest_of(value: object) -> str:
    """Return a digest of a JSON value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def entries_below(path: Path) -> Iterator[Path]:
    """Yield all files, folders and links below a folder."""
    return (Path(root, name) for root, folders, files in os.walk(path) for name in (*folders, *files))


def _of_entry(path: Path) -> str:
    if path.is_symlink():
        return f"link to {path.readlink()}"
    return sha256_of(path) if path.is_file() else "folder"


class Unchanged:
    """Notices when files are written to while a command works with them."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._versions = {path: self._version(path) for path in paths}

    def check(self, what_else: str = "") -> None:
        """Raise ConflictError where one was changed. what_else: to do, besides running the command again."""
        for path, version in self._versions.items():
            if self._version(path) != version:
                raise ConflictError(
                    f"'{path}' was changed while it was read; run the command again when the file is complete."
                    f"{what_else}"
                )

    @staticmethod
    def _version(path: Path) -> tuple[int, int, int]:
        found = path.stat()
        return found.st_ino, found.st_size, found.st_mtime_ns
