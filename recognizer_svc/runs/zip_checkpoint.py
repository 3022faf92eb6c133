"""Checkpoints of earlier versions: torch's zip files. Their parts carry a CRC each, which torch does not look at."""

import pickle
import struct
import zipfile
import zlib
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

from stal_data.errors import InputError

VERSION = 1
SIGNATURE = b"PK\x03\x04"
"""Whole: a safetensors file begins with the length of its header, and some lengths begin with PK."""
_UNREADABLE = (
    *(RuntimeError, EOFError, OSError, ValueError, LookupError, TypeError, AttributeError),
    *(pickle.UnpicklingError, zipfile.BadZipFile, zlib.error, struct.error),
)


def check(file: BinaryIO, path: Path) -> None:
    """Raise where a part is not what its CRC says. Needs no torch. path: for errors."""
    try:
        with zipfile.ZipFile(file) as archive:
            damaged, names = archive.testzip(), archive.namelist()
    except _UNREADABLE as error:
        raise InputError(f"The checkpoint '{path}' does not read: {repr(error)[:300]}") from None
    if len(set(names)) < len(names):  # only the last of a name has been read
        raise InputError(f"The checkpoint '{path}' is damaged: two of its parts have the same name.")
    if damaged is not None:
        raise InputError(f"The checkpoint '{path}' is damaged: the checksum of its part '{damaged}' differs.")


def _packed_again(data: bytes) -> BytesIO:
    """Return the parts as the check has read them: torch's own reader obeys marks that no CRC covers."""
    packed = BytesIO()
    with zipfile.ZipFile(BytesIO(data)) as archive, zipfile.ZipFile(packed, "w") as again:
        for name in archive.namelist():
            again.writestr(name, archive.read(name))
    packed.seek(0)
    return packed


def read(data: bytes, path: Path) -> dict[str, Any]:
    """Return the content of the checkpoint, without unpickling code. path: for errors."""
    import torch

    check(BytesIO(data), path)
    try:
        content = torch.load(_packed_again(data), map_location="cpu", weights_only=True)
    except _UNREADABLE as error:
        raise InputError(f"The checkpoint '{path}' does not read: {repr(error)[:300]}") from None
    if not isinstance(content, dict) or content.get("version") != VERSION:
        raise InputError(f"'{path}' is not a checkpoint of this program.")
    return content
