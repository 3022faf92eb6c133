"""The launcher's command line and environment."""

import sys
from itertools import pairwise
from pathlib import Path

import pytest

from recognizer_svc.runs.record import Launch
from recognizer_svc.runs.run_dir import JobFiles, RunDir
from recognizer_svc.service import launch
from recognizer_svc.service.limits import JobLimits, interface_address, loopback_interface
from stal_data.errors import InputError
from tests.services.job_scripts import ONE


def test_the_launchers_command_names_the_rendezvous(tmp_path: Path) -> None:
    two = Launch(nproc_per_node=4, backend="nccl", nnodes=2, node_rank=1, rdzv_endpoint="node0:29400", max_restarts=3)
    words = launch.command(JobFiles(RunDir(tmp_path / "one"), 1), two, local_address="10.0.0.2")
    assert words[:4] == [sys.executable, "-P", "-m", launch.LAUNCHER_MODULE]
    options = dict(pairwise(words))
    assert {name: options[name] for name in ("--rdzv-endpoint", "--rdzv-id", "--rdzv-conf")} == {
        "--rdzv-endpoint": "node0:29400",
        "--rdzv-id": "one",
        "--rdzv-conf": "is_host=false",
    }
    assert (options["--nnodes"], options["--nproc-per-node"], options["--max-restarts"]) == ("2", "4", "3")
    assert words[words.index(launch.WORKER_MODULE) - 1] == "-m"
    assert (options["--job-dir"], options["--backend"]) == (str(tmp_path / "one"), "nccl")
    assert options["--local-addr"] == "10.0.0.2"


def test_an_interface_that_is_not_there_is_refused_at_the_start() -> None:
    with pytest.raises(InputError, match="--interface 'no-such' has no IPv4 address here"):
        JobLimits(interface="no-such")


def test_a_job_of_one_node_stays_on_loopback(tmp_path: Path) -> None:
    files = JobFiles(RunDir(tmp_path))
    env = launch.environment(files, ONE, interface=loopback_interface(), stop_timeout_s=60)
    assert interface_address(env["GLOO_SOCKET_IFNAME"]) == "127.0.0.1"
    assert env["NCCL_SOCKET_IFNAME"] == f"={env['GLOO_SOCKET_IFNAME']}"  # exactly this one
    assert env["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"] == "60"
    assert "PET_NNODES" not in env
