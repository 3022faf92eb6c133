"""A checksum inside each file: the text `stal-sha256:` and 64 hex digits, in the file's first 4 KiB.

The digits are the sha256 of the whole file, taken while they are zeros. So every byte counts, and a checksum is
replaced together with its file: no kill separates them.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

from stal_data.errors import InputError

UNSEALED = "stal-sha256:" + 64 * "0"
"""What a file's writer puts where the checksum goes."""
HEAD_BYTES = 4096
_SEAL = re.compile(rb"stal-sha256:(.{64})", re.DOTALL)  # any bytes: the digits may be damaged
_BLOCK_BYTES = 1 << 20


def sealed(content: bytes) -> bytes:
    """Return the content with its checksum in place of the first `UNSEALED`."""
    seal = _seal_of(BytesIO(content))
    assert seal is not None  # the writer has put it there
    begin, zeros, digest = seal
    return content[:begin] + digest + content[begin + len(zeros) :]


def seal_file(path: Path) -> None:
    """Put the checksum into a file that is still being made."""
    with path.open("r+b") as file:
        seal = _seal_of(file)
        assert seal is not None
        file.seek(seal[0])
        file.write(seal[2])


def check_seal(source: bytes | BinaryIO, name: str, way_out: str) -> bool:
    """Raise where the bytes are not those that were sealed; False where they carry no checksum.

    source: a file is read from its beginning, and is there again afterwards.
    way_out: what the error advises.
    """
    file = BytesIO(source) if isinstance(source, bytes) else source
    seal = _seal_of(file)
    if seal is None:
        return False
    if seal[1] != seal[2]:
        raise InputError(f"'{name}' is damaged: its sha256 is not the one that it carries. {way_out}".rstrip())
    return True


def sealed_text(text: str) -> bytes:
    """Return text in which `#` begins a comment with its checksum as first line."""
    return sealed(f"# {UNSEALED}\n{text}".encode())


def sealed_json(values: Mapping[str, Any], *, indent: int | None = 2) -> bytes:
    """Return a JSON object whose first entry, `seal`, is the checksum; without indent it is one line."""
    return sealed(json.dumps({"seal": UNSEALED, **values}, indent=indent, allow_nan=False).encode())


def read_json(path: Path, way_out: str) -> dict[str, Any]:
    """Return the values of a JSON file, as `parse_json` does; none where there is no file."""
    try:
        return parse_json(path.read_bytes(), str(path), way_out)
    except FileNotFoundError:
        return {}


def parse_json(content: bytes, name: str, way_out: str) -> dict[str, Any]:
    """Return the values of a JSON object, without `seal`, after checking that. Text from elsewhere has none."""
    check_seal(content, name, way_out)
    try:
        values = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise InputError(f"'{name}' is damaged: it is not JSON ({error}). {way_out}".rstrip()) from None
    if not isinstance(values, dict):
        raise InputError(f"'{name}' is damaged: it is not a JSON object. {way_out}".rstrip())
    values.pop("seal", None)
    return values


def _seal_of(file: BinaryIO) -> tuple[int, bytes, bytes] | None:
    """Where the digits begin, what they are, and what they should be; None where there is no checksum."""
    file.seek(0)
    seal = _SEAL.search(file.read(HEAD_BYTES))
    file.seek(0)
    if seal is None:
        return None
    begin, end = seal.span(1)
    digest = hashlib.sha256(file.read(begin) + (end - begin) * b"0")
    file.seek(end)
    while block := file.read(_BLOCK_BYTES):
        digest.update(block)
    file.seek(0)
    return begin, seal[1], digest.hexdigest().encode()
