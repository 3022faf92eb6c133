"""Times as files write them, in seconds, and as the program holds them, in milliseconds."""

import math

from stal_data.csv_lines import as_number
from stal_data.errors import InputError, shown

MAX_TIME_S = 10**10
"""Latest time: clocks that count from 1970 fit; in milliseconds a float still has every whole number up to it."""

NOISE_ULPS = 2
"""So many units in the last place a time in seconds may be off: 3 * 0.2 is 0.6000000000000001."""


def parse_time(text: str) -> int:
    """Return the milliseconds of a time in seconds, such as `0007`, `902.0` or `0902.2`.

    InputError for what is no number, out of range, or no whole number of milliseconds.
    """
    seconds = parse_seconds(text)
    time_ms = round(seconds * 1000)
    if abs(time_ms / 1000 - seconds) > NOISE_ULPS * math.ulp(seconds):
        raise InputError(
            f"the time is {shown(text)}, but must have at most three decimals: key frames are told apart by "
            "milliseconds. Round the times, in all files alike."
        )
    return time_ms


def parse_seconds(text: str) -> float:
    """Return a time in seconds with whatever decimals it has; InputError for what is no number or out of range."""
    seconds = as_number(text)
    if seconds is None or not math.isfinite(seconds):
        raise InputError(f"the time is {shown(text)}, but must be a number of seconds.")
    if not 0 <= seconds <= MAX_TIME_S:
        raise InputError(f"the time is {shown(text)}, but must be from 0 to {MAX_TIME_S} seconds.")
    return seconds


def format_time(time_ms: int) -> str:
    """Return a time in seconds as files have it: `0007`, with as many decimals as needed (`0007.2`)."""
    seconds, rest = divmod(time_ms, 1000)
    return f"{seconds:04d}" + (f".{rest:03d}".rstrip("0") if rest else "")
