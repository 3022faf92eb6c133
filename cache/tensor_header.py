"""What the header of a safetensors file says, without torch and without its tensors."""

import json
import os
from typing import Any, BinaryIO

from stal_data.errors import InputError

_LENGTH_BYTES = 8
_LIMIT_BYTES = 100_000_000  # as the format's own library


def read_header(file: BinaryIO, name: str) -> dict[str, Any]:
    """Return the header; InputError where it does not read, or the file is not as long as it says.

    Neither the checksum nor the tensors are looked at. name: for errors.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
    try:
        header = dict(json.loads(file.read(min(length, _LIMIT_BYTES))))
        tensors = [entry for key, entry in header.items() if key != "__metadata__"]
        end = max((int(entry["data_offsets"][1]) for entry in tensors), default=0)
    except (ValueError, LookupError, TypeError, OverflowError, RecursionError) as error:
        raise InputError(f"'{name}' is damaged: its header does not read ({error!r:.200}).") from None
    if size != _LENGTH_BYTES + length + end:
        raise InputError(f"'{name}' is damaged: it has {size} bytes instead of {_LENGTH_BYTES + length + end}.")
    return header
