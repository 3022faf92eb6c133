"""Rules for the names that become folders and files, so that none can leave its root."""

import re
import unicodedata

from stal_data.errors import InputError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
MAX_NAME_LENGTH = 200
"""Characters; a file name may have 255 bytes, and some have endings of their own."""


def is_name(value: str) -> bool:
    """Whether `check_name` takes it."""
    return len(value) <= MAX_NAME_LENGTH and _NAME.fullmatch(value) is not None


def check_name(field: str, value: str) -> str:
    """Return `value` if it may name a data set, split, run or detector; `field` is what the message calls it."""
    if not is_name(value):
        raise InputError(
            f"{field} is {value[:MAX_NAME_LENGTH]!r}, but must start with a letter or digit and hold only letters, "
            f"digits, '.', '_' and '-', {MAX_NAME_LENGTH} at most: choose another name."
        )
    return value


def check_video_id(field: str, value: str) -> str:
    """Return `value` if it may name a video: printable, and no part of it can leave the media folder.

    In Unicode's composed form (NFC), whatever form a file name or an annotation has: what looks equal is equal.
    """
    value = unicodedata.normalize("NFC", value)
    if not value or not value.isprintable() or "/" in value or "\\" in value or ".." in value or value == ".":
        raise InputError(
            f"{field} is {value!r}, but a video id must be printable and hold no '/', '\\' or '..': rename the video."
        )
    return value
