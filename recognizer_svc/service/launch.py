"""Starting a job: torch elastic as a command, in a process session of its own, so that neither a client's nor the
service's end takes it along, and no handler of torch elastic gets into the service's process."""

import subprocess
from pathlib import Path

from recognizer_svc.runs.record import JobKind, Launch
from recognizer_svc.runs.run_dir import JobFiles
from recognizer_svc.service.limits import JobLimits, interface_address, loopback_interface
from recognizer_svc.service.processes import JOB_DIR_OPTION, NODE_RANK_VARIABLE
from stal_data.children import python_command, python_environment, usable_cores
from stal_data.owner import owned

LAUNCHER_MODULE = "recognizer_svc.training.launcher"
WORKER_MODULE = "recognizer_svc.training.worker"
PRECOMPUTE_MODULE = "recognizer_svc.precompute.worker"


def default_processes() -> int:
    """One process per GPU, or one without."""
    import torch

    return max(torch.cuda.device_count(), 1)


def default_backend(nproc_per_node: int) -> str:
    """NCCL needs a GPU of its own for each process."""
    import torch

    return "nccl" if torch.cuda.device_count() >= nproc_per_node else "gloo"


def command(files: JobFiles, launch: Launch, *, local_address: str, data_root: Path | None = None) -> list[str]:
    """The launcher's argument list.

    local_address: where the other processes reach this node, and all that its stores listen on.
    data_root: folder below which the recipe may name a data set.
    """
    return [
        *python_command(LAUNCHER_MODULE),
        *("--rdzv-endpoint", launch.rdzv_endpoint or local_address, "--rdzv-id", files.run.run_id),
        *("--rdzv-conf", f"is_host={str(launch.node_rank == 0).lower()}"),
        *("--local-addr", local_address),
        *("--nnodes", str(launch.nnodes), "--nproc-per-node", str(launch.nproc_per_node)),
        *("--max-restarts", str(launch.max_restarts), "--log-dir", str(files.elastic_logs)),
        *("-m", WORKER_MODULE, JOB_DIR_OPTION, str(files.run.root), "--backend", launch.backend),
        *(() if data_root is None else ("--data-root", str(data_root))),
    ]


def precompute_command(files: JobFiles, limits: JobLimits) -> list[str]:
    """The argument list of a precompute job's process."""
    return [
        *python_command(PRECOMPUTE_MODULE),
        *(JOB_DIR_OPTION, str(files.run.root), "--data-root", str(limits.data_root)),
        *(word for choice in limits.backbones for word in choice.words()),
    ]


def environment(files: JobFiles, launch: Launch, *, interface: str, stop_timeout_s: float) -> dict[str, str]:
    """The launcher's environment.

    interface: network interface of the collective traffic, which is not encrypted.
    stop_timeout_s: how long workers may take to write their checkpoint after SIGTERM.
    """
    # PET_* would override the launcher's options.
    env = {name: value for name, value in python_environment().items() if not name.startswith("PET_")}
    env["PYTHONUNBUFFERED"] = "1"
    env[NODE_RANK_VARIABLE] = str(launch.node_rank)
    env["TORCHELASTIC_ERROR_FILE"] = str(files.error)
    env["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"] = str(int(stop_timeout_s))
    env.setdefault("OMP_NUM_THREADS", str(max(usable_cores() // launch.nproc_per_node, 1)))
    env["GLOO_SOCKET_IFNAME"] = interface
    env["NCCL_SOCKET_IFNAME"] = f"={interface}"  # else it is the beginning of a name: eth1 would take eth10, too
    return env


def start(files: JobFiles, launch: Launch, limits: JobLimits, kind: JobKind = JobKind.TRAIN) -> subprocess.Popen[bytes]:
    """Start the launcher. Its output goes to the job's log, after that of earlier attempts.

    Not asyncio's subprocess: that one kills its child when the service's loop closes.
    """
    files.error.unlink(missing_ok=True)
    # A job of one node stays on loopback.
    name = limits.interface if limits.interface is not None and launch.nnodes > 1 else loopback_interface()
    env = environment(files, launch, interface=name, stop_timeout_s=limits.stop_timeout_s)
    if kind is JobKind.PRECOMPUTE:
        words = precompute_command(files, limits)
    else:
        words = command(files, launch, local_address=interface_address(name), data_root=limits.data_root)
    with files.log.open("ab") as log:
        return subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=owned(env) if limits.end_with_service else env,
            start_new_session=True,
        )
