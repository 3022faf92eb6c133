"""The key frames that take no part in scoring, from a file or as they are."""

import hashlib
import unicodedata
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from stal_data.errors import InputError
from stal_data.keyframes import KeyFrame
from stal_data.times import parse_time
from stal_eval.csv_file import digest_of, read_lines
from stal_eval.rules import broken_exclusion_rule


@dataclass(frozen=True, kw_only=True)
class Exclusions:
    """digest: sha256 (hex) of the file's bytes, or of the key frames; None when none were given."""

    keys: frozenset[KeyFrame] = frozenset()
    digest: str | None = None


def load_exclusions(exclusions: Path | str | Collection[KeyFrame] | None) -> Exclusions:
    """Read a CSV file (gzip or plain, no header) of video,timestamp; ids and timestamps are those of predictions."""
    if exclusions is None:
        return Exclusions()
    if not isinstance(exclusions, Path | str):
        keys = frozenset(exclusions)
        text = "".join(f"{key}\n" for key in sorted(keys))
        return Exclusions(keys=keys, digest=hashlib.sha256(text.encode()).hexdigest())
    path, found = Path(exclusions), set()
    for number, fields in read_lines(path):
        rule = broken_exclusion_rule(fields, number)
        if rule is not None:
            raise InputError(f"{path}, line {number}: {rule}")
        found.add(KeyFrame(unicodedata.normalize("NFC", fields[0]), parse_time(fields[1])))
    return Exclusions(keys=frozenset(found), digest=digest_of(path))
