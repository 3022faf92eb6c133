"""What the header of a checkpoint says, without torch and without its tensors."""

import json
from pathlib import Path
from typing import Any

from stal_data.errors import InputError

METADATA_KEY = "stal_checkpoint"
_LIMIT_BYTES = 1 << 26


def read_metadata(path: Path) -> dict[str, Any]:
    """Return the metadata of a checkpoint, whose checksum is not verified here."""
    try:
        with path.open("rb") as file:
            header = json.loads(file.read(min(int.from_bytes(file.read(8), "little"), _LIMIT_BYTES)))
        return dict(json.loads(header["__metadata__"][METADATA_KEY]))
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(f"'{path}' is damaged: its header does not read ({error!r}).") from None
