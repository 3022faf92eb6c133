"""What `stal-cli doctor` looks at outside the installation: ports, the name localhost, and GPUs."""

import os
import re
import socket
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from importlib import util
from pathlib import Path

from stal_data.amounts import amount
from stal_data.hosts import is_loopback
from svc_common.proxies import EXCEPTIONS, VARIABLES, proxy_of, without_password

_DRIVER = Path("/proc/driver/nvidia/version")


def check_port(port: int) -> tuple[str, list[str]]:
    """Whether a service could listen at 127.0.0.1 now; a service of ours that does already is no problem."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections that have ended do not count
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            reason = error.strerror
        else:
            return "free", []
    words, pid = _listener(port)
    command = " ".join(words)[:80]
    if "serve" in words and {"detector", "recognizer"} & set(words):
        return f"served by {command} (pid {pid})", []
    if pid:
        return "taken", [f"port {port} is taken by {command} (pid {pid}): stop it, or give serve another --port"]
    return "taken", [
        f"port {port} cannot be bound ({reason}), and no process that this user may see listens there: look with "
        "'ss -tlnp' as root. If nobody listens, the kernel has lent the port to an outgoing connection: "
        f"sysctl -w net.ipv4.ip_local_reserved_ports={port}"
    ]


def _listener(port: int) -> tuple[list[str], int]:
    """Command line and process id of who listens; nothing where that cannot be seen."""
    if util.find_spec("psutil") is None:
        return [], 0
    import psutil

    with suppress(psutil.Error):
        for item in psutil.net_connections("tcp"):
            if item.laddr and item.laddr.port == port and item.status == psutil.CONN_LISTEN and item.pid:
                return psutil.Process(item.pid).cmdline(), item.pid
    return [], 0


def check_localhost(resolve: Callable[[], list[str]] | None = None) -> tuple[str, list[str]]:
    """resolve: the IPv4 addresses of localhost; default: asks the system."""
    try:
        found = (resolve or _resolve_localhost)()
    except OSError as error:
        return "unknown", [
            f"the name localhost does not resolve ({error.strerror}): add '127.0.0.1 localhost' to /etc/hosts"
        ]
    if not all(map(is_loopback, found)):
        text = ", ".join(found)
        return text, [
            f"the name localhost stands for {text}, another machine: let /etc/hosts say '127.0.0.1 localhost'"
        ]
    return ", ".join(found), []


def check_proxies(environment: Mapping[str, str] = os.environ) -> tuple[str, list[str]]:
    """Which proxies the environment names, and what goes through them: nothing that stays on this machine."""
    names = [name for name in (*VARIABLES, "all_proxy") if environment.get(name)]
    names += [name.upper() for name in (*VARIABLES, "all_proxy", "no_proxy") if environment.get(name.upper())]
    names += [name for name in EXCEPTIONS if environment.get(name)]
    if not names:
        return "none", []
    shown = ", ".join(f"{name}={without_password(environment[name])}" for name in names)
    proxy = proxy_of("services.invalid", environment)
    way = "directly" if proxy is None else f"through {proxy.partition('=')[0]}"
    return f"{shown}; calls to services on other machines go {way}, on this machine always directly", []


def _resolve_localhost() -> list[str]:
    return sorted({str(entry[4][0]) for entry in socket.getaddrinfo("localhost", None, socket.AF_INET)})


def check_devices() -> tuple[str, list[str]]:
    """What torch can compute on, and why not on the GPUs that the machine has."""
    if util.find_spec("torch") is None:
        return "unknown without torch", []
    try:
        import torch
    except (ImportError, OSError) as error:  # a library of the system or of CUDA that does not load
        return "unusable", [f"torch cannot be imported ({error}): install torch and torchvision again"]
    failures: dict[str, str] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what they say is in the errors below
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if not count:
            failures["torch"] = _reason(torch.cuda.init)
        for index in range(count):
            if reason := _reason(partial(torch.ones, 1, device=f"cuda:{index}")):
                failures[f"cuda:{index} ({torch.cuda.get_device_name(index)})"] = reason
    problems = gpu_problems(
        driver=driver_version(),
        cuda=torch.version.cuda,
        torch_version=torch.__version__,
        count=count,
        failures=failures,
    )
    if count == 0:
        return f"CPU only, {amount(torch.get_num_threads(), 'thread')} (torch {torch.__version__})", problems
    names = ", ".join(torch.cuda.get_device_name(index) for index in range(count))
    return f"{names} (torch {torch.__version__}, driver {driver_version() or 'unknown'})", problems


def _reason(work: Callable[[], object]) -> str:
    """Why the work fails, in a line; empty when it does not."""
    try:
        work()
    except (RuntimeError, AssertionError) as error:
        return str(error).partition("\n")[0] or type(error).__name__
    return ""


def driver_version() -> str | None:
    """Of the NVIDIA driver; None where there is none."""
    if not _DRIVER.is_file():
        return None
    found = re.search(r"\d+\.\d+(\.\d+)?", _DRIVER.read_text(encoding="utf-8"))
    return found[0] if found else "of unknown version"


def gpu_problems(
    *, driver: str | None, cuda: str | None, torch_version: str, count: int, failures: dict[str, str]
) -> list[str]:
    """A sentence for each GPU that the machine has and torch cannot use.

    cuda: what torch is built for; None for a CPU build. count: GPUs that torch sees. failures: by what failed.
    """
    if count:
        return [
            f"{name} cannot compute: {reason}; install a torch that supports it" for name, reason in failures.items()
        ]
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
    if driver is None or hidden in ("", "-1"):
        return []
    if cuda is None:
        return [
            f"the NVIDIA driver {driver} is here, but torch {torch_version} is built for the CPU: uninstall torch and "
            "torchvision and install their builds for CUDA"
        ]
    reason = failures.get("torch") or "no reason given"
    return [
        f"the NVIDIA driver {driver} is here, but torch {torch_version}, built for CUDA {cuda}, finds no GPU "
        f"({reason}): take a driver for CUDA {cuda} or a torch built for an older one, and check CUDA_VISIBLE_DEVICES"
    ]
