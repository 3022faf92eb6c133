"""How many files of feature sets a process may keep mapped."""

import resource
from contextlib import suppress
from functools import cache

MAX_MAPPED_FILES = 4096
"""Of one set: 65 000 key frames in shards of 64. Linux allows 65530 maps a process (vm.max_map_count)."""
SHARE = 8
"""The part of a process' files that one set may take; a training reads three sets, and opens other things."""


@cache
def max_mapped_files() -> int:
    """Return how many files one feature set may keep mapped; each map also holds its file open.

    A process may often open 1024 files and raise that number by itself, which the first call does as far as it can: a
    shard that is opened anew for each row costs more than reading the row.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = SHARE * MAX_MAPPED_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (_least(wanted, hard), hard))
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _least(wanted, soft) // SHARE


def _least(wanted: int, limit: int) -> int:
    return wanted if limit == resource.RLIM_INFINITY else min(wanted, limit)
