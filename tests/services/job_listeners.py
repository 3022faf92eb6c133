"""Where the processes of a training job listen."""

from pathlib import Path

import psutil

from recognizer_svc.service.processes import job_processes


def listening_addresses(run_dir: Path, node_rank: int = 0) -> set[str]:
    """The addresses of the TCP ports of a node's launcher, ranks and whatever they have started."""
    launcher, *_ = job_processes(run_dir, node_rank)
    processes = [launcher, *launcher.children(recursive=True)]
    connections = [connection for process in processes for connection in process.net_connections("tcp")]
    return {connection.laddr.ip for connection in connections if connection.status == psutil.CONN_LISTEN}
