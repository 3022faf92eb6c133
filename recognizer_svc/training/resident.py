"""Features that stay in memory for a whole run, where they fit."""

import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Literal

import torch

from recognizer_svc.data import LabelledFeatures
from stal_data.errors import InputError


def keep_resident(
    parts: Mapping[str, LabelledFeatures | None],
    wanted: Literal["auto", "always", "never"],
    device: torch.device,
    *,
    threads: int,
    say: Callable[[str], None],
) -> None:
    """Read the features of each part once, into the device's memory; values and order of batches stay the same.

    parts: by what messages call them. wanted: auto = what fits into half of the free memory; nothing on a CPU, where
        files are in the page cache. InputError where `always` does not fit.
    """
    for name, data in parts.items():
        if data is None or wanted == "never" or (wanted == "auto" and device.type == "cpu"):
            continue
        limit = _free_bytes(device) // 2  # the rest is for batches, the optimizer and whoever else is there
        size = f"the features for {name} take {data.num_bytes / 1e9:.2f} GB"
        fits = data.num_bytes <= limit
        if not fits:
            size += f", and {limit / 1e9:.2f} GB of the memory of {device} may be used"
        if not fits and wanted == "always":
            raise InputError(
                f"data.resident is always, but {size}. Set it to auto, which reads them in each epoch where they do "
                "not fit, or have the head get fewer of them with data.streams or data.statistics."
            )
        say(f"{size}; they are read {'once and stay in the memory of ' + str(device) if fits else 'in each epoch'}")
        if fits:
            data.keep(device, threads)


def _free_bytes(device: torch.device) -> int:
    """Return the free memory of a device, divided by this machine's processes that use it."""
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] // -(-processes // torch.cuda.device_count())
    free = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    with suppress(OSError):  # Linux
        lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        free = int(lines["MemAvailable"].split()[0]) * 1024
    with suppress(OSError, ValueError):  # a container with a limit; "max" without
        group = Path("/sys/fs/cgroup")
        free = min(free, int((group / "memory.max").read_text()) - int((group / "memory.current").read_text()))
    return free // processes
