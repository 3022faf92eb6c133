"""The processes of one training job, and the few sums they share."""

import inspect
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from stal_data.errors import InputError

Backend = Literal["gloo", "nccl"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Ranks:
    """This process among the `world_size` of its job, and the device it computes on. The defaults are a job of one."""

    rank: int = 0
    world_size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def sum(self, values: Tensor) -> Tensor:
        """Add `values` up over all ranks, in place; every rank must call it."""
        if self.world_size > 1:
            dist.all_reduce(values)
        return values

    def from_first(self, content: bytes | None) -> bytes | None:
        """Give every rank what rank 0 has, None or some bytes; every rank must call it."""
        if self.world_size == 1:
            return content
        length = torch.tensor([-1 if content is None else len(content)], device=self.device)
        dist.broadcast(length, src=0)
        if length.item() < 0:
            return None
        if self.rank == 0 and content is not None:
            data = torch.frombuffer(bytearray(content), dtype=torch.uint8).to(self.device)
        else:
            data = torch.empty(int(length.item()), dtype=torch.uint8, device=self.device)
        dist.broadcast(data, src=0)
        return data.cpu().numpy().tobytes()

    def wrap(self, head: nn.Module) -> nn.Module:
        """Let the gradients of `head` be averaged over the ranks. Buffers are left alone."""
        if self.world_size == 1:
            return head
        devices = [self.device] if self.device.type == "cuda" else None
        # Newer versions of torch warn of the old name.
        known = inspect.signature(DistributedDataParallel.__init__).parameters
        option = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
        keep_buffers_apart: dict[str, Any] = {option: False}
        return DistributedDataParallel(head, device_ids=devices, **keep_buffers_apart)

    def copy_buffers_from_first(self, head: nn.Module) -> None:
        """Give every rank the BatchNorm statistics of rank 0, which are the ones that are saved."""
        if self.world_size > 1:
            for buffer in head.buffers():
                dist.broadcast(buffer, src=0)


@contextmanager
def connect(
    backend: Backend,
    *,
    timeout_s: float,
    init_method: str = "env://",
    rank: int | None = None,
    world_size: int | None = None,
) -> Iterator[Ranks]:
    """Join the job's process group; leave it at the end of the block, unless that ends with an error.

    Leaving waits for what the other ranks were to take part in, under nccl without end; a process that has met an error
    must say so and exit.
    rank, world_size: by default from the environment that torch.distributed.run sets.
    timeout_s: how long a collective waits for the other ranks.
    """
    rank = int(os.environ["RANK"]) if rank is None else rank
    world_size = int(os.environ["WORLD_SIZE"]) if world_size is None else world_size
    device = device_of(backend, int(os.environ.get("LOCAL_RANK", "0")))
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if backend == "gloo":
        _bind_gloo()
    dist.init_process_group(
        backend, init_method=init_method, rank=rank, world_size=world_size, timeout=timedelta(seconds=timeout_s)
    )
    yield Ranks(rank=rank, world_size=world_size, device=device)
    dist.destroy_process_group()


def device_of(backend: str, local_rank: int) -> torch.device:
    """The device of one of a machine's processes."""
    if not torch.cuda.is_available():
        if backend == "nccl":
            raise InputError("The backend is nccl, but this machine has no CUDA device; use --backend gloo.")
        return torch.device("cpu")
    return torch.device("cuda", local_rank % torch.cuda.device_count())


def _bind_gloo() -> None:
    """Keep the traffic of a job on one machine on loopback: gloo would guess an interface, and may hang on it."""
    several_machines = os.environ.get("LOCAL_WORLD_SIZE", "") != os.environ.get("WORLD_SIZE", "")
    name = os.environ.get("GLOO_SOCKET_IFNAME")
    if several_machines and name in ("lo", "lo0"):
        raise InputError(
            f"GLOO_SOCKET_IFNAME is '{name}', but the job runs on several machines, which loopback does not connect; "
            "set it to the interface of the trusted network between them."
        )
    if not several_machines and name is None:
        os.environ["GLOO_SOCKET_IFNAME"] = "lo0" if os.uname().sysname == "Darwin" else "lo"
