"""What it costs to decode an image, counted before a decoder sees it: pixels alone do not bound the work."""

import re
import struct
from collections.abc import Iterator

from stal_data.errors import InputError

MAX_SCANS = 32
"""Of a progressive JPEG: each goes over all pixels again. Encoders write about ten."""
MAX_SEGMENTS = 1000
"""Parts of a JPEG beside its pixels; Pillow joins some of them, in quadratic time."""
MAX_CHUNKS = 100_000
"""Of a PNG; Pillow takes each in turn."""
_PNG = b"\x89PNG\r\n\x1a\n"
# A marker is no filler, nothing within the pixels (00, D0 to D7), and no start of an image (D8), which has no content.
_MARKER = re.compile(rb"\xff([^\x00\x01\xd0-\xd8\xff])")
_START_OF_SCAN, _END = 0xDA, 0xD9
_ARITHMETIC = (0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF)


def check_image_work(data: bytes, name: str) -> None:
    """Refuse images whose decoding takes longer than their pixels do; `name` is what the InputError calls the image."""
    if data.startswith(b"\xff\xd8"):
        _check_jpeg(data, name)
    elif data.startswith(_PNG):
        _check_png(data, name)


def _check_jpeg(data: bytes, name: str) -> None:
    scans = 0
    for number, marker in enumerate(_jpeg_markers(data), 1):
        scans += marker == _START_OF_SCAN
        if scans > MAX_SCANS:
            raise InputError(f"{name} has more than {MAX_SCANS} scans. Save it as a JPEG that is not progressive.")
        if number > MAX_SEGMENTS:
            raise InputError(f"{name} has more than {MAX_SEGMENTS} segments. Save it without metadata.")
        if marker in _ARITHMETIC:
            raise InputError(f"{name} is a JPEG with arithmetic coding. Save it as a usual JPEG.")


def _jpeg_markers(data: bytes) -> Iterator[int]:
    position = 2
    while (found := _MARKER.search(data, position)) is not None and found[1][0] != _END:
        yield found[1][0]
        length = int.from_bytes(data[found.end() : found.end() + 2], "big")
        position = found.end() + max(length, 2)


def _check_png(data: bytes, name: str) -> None:
    profiles = 0
    for number, kind in enumerate(_png_chunks(data), 1):
        profiles += kind == b"iCCP"
        if profiles > 1:
            raise InputError(f"{name} has more than one colour profile. Save it without metadata.")
        if number > MAX_CHUNKS:
            raise InputError(f"{name} has more than {MAX_CHUNKS} chunks. Save it again.")


def _png_chunks(data: bytes) -> Iterator[bytes]:
    position = len(_PNG)
    while position + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        yield kind
        position += 12 + length
