"""What the operator of a service allows jobs."""

import socket
from dataclasses import dataclass
from pathlib import Path

import psutil

from cache.backbones.choice import BackboneChoice
from stal_data.errors import InputError, NotFoundError, did_you_mean
from stal_data.names import check_name

LOOPBACK = "127.0.0.1"


@dataclass(frozen=True, kw_only=True)
class JobLimits:
    """The operator's choices."""

    max_jobs: int = 1
    """Jobs that run at the same time; more wait."""
    max_queued: int = 16
    """Jobs that wait; more are refused."""
    stop_timeout_s: float = 60.0
    """From SIGTERM, at which workers write a checkpoint, to SIGKILL."""
    stall_timeout_s: float = 3600.0
    """A job without any event for so long is stopped and has failed; 0 turns it off."""
    interface: str | None = None
    """Trusted network interface for the unencrypted traffic of jobs with several nodes; None refuses them."""
    data_root: Path | None = None
    """Folder whose data sets precompute jobs, and recipes for joint training, may name; None refuses them."""
    backbones: tuple[BackboneChoice, ...] = ()
    """With which precompute jobs compute features; without any they are refused."""
    machine: str | None = None
    """Name of this machine in the records of jobs; None means its host name. A service finds its jobs by it."""

    end_with_service: bool = False
    """Whether jobs end with the service even when that is killed; else the next service takes them over."""

    in_this_process: bool = False
    """Whether a job of one process is a thread of this one."""

    @property
    def host(self) -> str:
        return self.machine or socket.gethostname()

    def __post_init__(self) -> None:
        if self.machine is not None:
            check_name("--machine", self.machine)
        if self.data_root is not None and not self.data_root.is_dir():
            raise NotFoundError(f"--data-root '{self.data_root}' is not a folder.")
        if self.interface is not None:
            interface_address(self.interface)


def interface_address(name: str) -> str:
    """The IPv4 address of a network interface of this machine."""
    interfaces = psutil.net_if_addrs()
    found = [entry.address for entry in interfaces.get(name, ()) if entry.family == socket.AF_INET]
    if not found:
        raise InputError(f"--interface '{name}' has no IPv4 address here. {did_you_mean(name, interfaces)}")
    return found[0]


def loopback_interface() -> str:
    """The loopback interface's name."""
    return next(
        name for name, entries in psutil.net_if_addrs().items() if any(entry.address == LOOPBACK for entry in entries)
    )
