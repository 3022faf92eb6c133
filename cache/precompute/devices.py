"""Which devices compute, and with how many threads."""

import os
import shutil
from concurrent.futures import ThreadPoolExecutor

import torch

from stal_data.children import usable_cores
from stal_data.errors import InputError

MAX_DECODE_THREADS = 16
"""Each may hold the frames of a clip in full size, and a container may see more cores than it may use."""


def resolve_devices(names: str | None, local_rank: int | None = None) -> list[torch.device]:
    """Return the devices of `auto` or of a list such as `cuda:0,cuda:1`.

    `auto` is every visible CUDA device, else the CPU. local_rank: this process's number among those of the machine;
    then `auto` is the CUDA device of that number, or the only visible one.
    """
    available = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if names in (None, "auto"):
        if local_rank is not None and available > 1:
            if local_rank >= available:
                raise InputError(
                    f"LOCAL_RANK is {local_rank}, but {available} CUDA devices are visible; start one process a GPU "
                    f"(torchrun --nproc-per-node {available}), or name a device with --device."
                )
            return [torch.device("cuda", local_rank)]
        return [torch.device("cuda", index) for index in range(available)] or [torch.device("cpu")]
    devices = []
    for name in str(names).split(","):
        try:
            device = torch.device(name.strip())
        except RuntimeError:
            raise InputError(f"--device is '{name}'; it must be auto, cpu, cuda:N or a list of them.") from None
        if device.type == "cuda" and (device.index or 0) >= available:
            raise InputError(f"--device names {name}, but {available} CUDA devices are visible; use auto or cpu.")
        devices.append(device)
    if len(set(devices)) < len(devices):
        raise InputError(f"--device is '{names}'; each device may be named once.")
    return devices


def check_compiler(device: torch.device) -> None:
    """Refuse --compile on a CPU where torch.compile would fail for want of a C++ compiler."""
    compilers = (os.environ.get("CXX", "g++"), "g++", "clang++")
    if device.type == "cpu" and not any(map(shutil.which, compilers)):
        raise InputError("--compile on a CPU needs a C++ compiler; install g++, or leave --compile out.")


def default_decode_threads(local_processes: int = 1) -> int:
    """Return the cores that this process may use, shared with the other processes of the machine; at most 16."""
    return max(1, min(MAX_DECODE_THREADS, usable_cores() // local_processes))


def compute_pool(device: torch.device, num_batches: int, *, compiled: bool) -> tuple[ThreadPoolExecutor, int]:
    """Return the threads that run models on a device, and their number.

    num_batches: of a whole shard, since a device computes one at a time.
    A GPU needs one. On the CPU each core takes its own batch: the threads of one operation would wait for each other
    whenever the decoder takes a core. Compiled code has its number of threads built in, so there one thread calls it.
    """
    if device.type != "cpu" or compiled:
        return ThreadPoolExecutor(1, thread_name_prefix="compute"), 1
    cores = torch.get_num_threads()
    workers = max(1, min(cores, num_batches))
    # Holds for the thread that calls it.
    pool = ThreadPoolExecutor(workers, "compute", initializer=torch.set_num_threads, initargs=(cores // workers,))
    return pool, workers
