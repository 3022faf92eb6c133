"""Which capacities a sweep visits. A capacity is how many best-scored rows (box x class) of a key frame count."""

import math
import re
from collections.abc import Iterable

from stal_data.errors import InputError, shown

NO_LIMIT = 0
"""The capacity that keeps every row; it sorts after all others."""

_MAX_CAPACITIES = 100_000

_ITEM = re.compile(r"\s*(\d{1,9})\s*(?::\s*(\d{1,9})\s*)?")


def parse_capacities(text: str) -> tuple[int, ...]:
    """Read `50:2200` (50 to 2199), `50,100` or a mix of both; 0 means no limit."""
    capacities: list[int] = []
    for item in text.split(","):
        match = _ITEM.fullmatch(item)
        if match is None:
            raise InputError(
                f"capacities is {shown(text)}, but must be numbers and ranges such as 50:2200 (50 to 2199) or 50,100."
            )
        start = int(match[1])
        end = int(match[2]) if match[2] is not None else start + 1
        if start >= end:
            raise InputError(f"capacities: the range '{item.strip()}' is empty, its end is exclusive: write 50:2200.")
        if len(capacities) + end - start > _MAX_CAPACITIES:
            raise InputError(
                f"capacities is {shown(text)}, but a sweep visits at most {_MAX_CAPACITIES}: give a smaller range, or "
                "0 for no limit."
            )
        capacities.extend(range(start, end))
    return check_capacities(capacities)


def check_capacities(capacities: Iterable[int]) -> tuple[int, ...]:
    """Return the capacities in increasing order, each once, no limit last."""
    values = tuple(sorted(set(capacities), key=lambda capacity: capacity or math.inf))
    if not values:
        raise InputError("capacities is empty, but needs at least one, such as 50.")
    for value in values:
        if value < 0:
            raise InputError(f"capacities: {value} is negative; write 0 for no limit.")
    return values


def format_capacities(capacities: Iterable[int]) -> str:
    """Write capacities as `parse_capacities` reads them: runs of three and more as ranges."""
    values = check_capacities(capacities)
    items, start = [], 0
    for position in range(1, len(values) + 1):
        if position < len(values) and values[position] == values[position - 1] + 1:
            continue
        run = values[start:position]
        items += [f"{run[0]}:{run[-1] + 1}"] if len(run) > 2 else [str(value) for value in run]
        start = position
    return ",".join(items)
