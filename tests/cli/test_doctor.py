"""`doctor` names what would break a command on this machine, and the way out; a sound machine is reported as such."""

import socket
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from cli.commands.doctor import find_shadows, missing_by_extra
from cli.commands.doctor_machine import check_localhost, check_proxies, gpu_problems
from cli.commands.doctor_store import local_locks, mount_of
from cli.main import root
from tests.cache.object_store.s3_server import s3_server
from tests.services.recognizer_process import unused_port


def doctor(*words: str) -> Result:
    """On a port that is free, since another process of this machine may have the default ones."""
    return CliRunner().invoke(
        root, ["doctor", *(words if "--port" in words else ("--port", str(unused_port()), *words))]
    )


def test_a_sound_machine_is_reported_as_such(tmp_path: Path) -> None:
    result = doctor("--store", str(tmp_path))
    assert result.exit_code == 0, result.output
    assert f"stal {metadata.version('stal')}" in result.output
    assert "torch" in result.output
    assert "free" in result.output
    assert "writable, locks hold" in result.output
    assert not list(tmp_path.iterdir())


def test_every_extra_is_shown() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    shown = {line.split()[0] for line in doctor().output.splitlines() if line.endswith(" ok")}
    trackers = {"mlflow", "wandb"}  # which `dev` leaves out
    assert set(project["optional-dependencies"]) - {"all", "dev", "docs"} - trackers <= shown


def test_what_an_extra_lacks_is_named() -> None:
    requirements = [
        "click>=8.1",
        'stal[stores,torch]; extra == "recognizer"',
        'torch>=2.11; extra == "recognizer"',
        'no-such-board>=0.45; extra == "recognizer"',
        "no-such-s3; extra == 's3'",
        'no-such-tool; extra == "dev"',
    ]
    assert missing_by_extra(requirements) == {"recognizer": ["no-such-board"], "s3": ["no-such-s3"]}


def test_a_foreign_package_of_the_same_name_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata, "packages_distributions", lambda: {"cache": ["stal", "diskcache2"], "cli": ["stal"]})
    assert find_shadows() == [
        "the import package 'cache' is also provided by diskcache2: uninstall it, or use a virtual environment of "
        "stal's own"
    ]


def test_a_store_that_cannot_be_written_is_a_problem() -> None:
    result = doctor("--store", "/proc")  # no user may, root included
    assert result.exit_code == 1
    assert "cannot write into '/proc'" in result.stderr


def test_a_store_that_is_a_file_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("")
    result = doctor("--store", str(tmp_path / "store"))
    assert result.exit_code == 1
    assert "is a file; it must be a folder" in result.stderr


def test_a_store_that_is_not_there_yet_is_tried_where_it_would_be_made(tmp_path: Path) -> None:
    result = doctor("--store", str(tmp_path / "new" / "store"))
    assert result.exit_code == 0, result.output
    assert f"not there yet, so {tmp_path} was tried" in result.output
    assert not list(tmp_path.iterdir())


@pytest.fixture
def bucket_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with s3_server() as proxy:
        values = {
            "AWS_ENDPOINT_URL": proxy.url,
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_DEFAULT_REGION": "us-east-1",
            "XDG_CACHE_HOME": str(tmp_path),
            "NO_PROXY": "127.0.0.1",
        }
        for name, value in values.items():
            monkeypatch.setenv(name, value)
        import boto3

        boto3.client("s3").create_bucket(Bucket="there")
        yield


def test_buckets_are_tried_with_real_requests(bucket_server: None) -> None:
    good = doctor("--store", "s3://there/store")
    assert good.exit_code == 0, good.output
    assert "conditions on writes hold" in good.output
    bad = doctor("--store", "s3://nowhere/store")
    assert bad.exit_code == 1
    assert "s3://nowhere/store" in bad.stderr


def test_mounts_whose_locks_stay_on_this_machine_are_named() -> None:
    mounts = (
        "/dev/sda1 / ext4 rw,relatime 0 0\n"
        "fs:/a /proc nfs4 rw,vers=4.2,local_lock=none 0 0\n"
        "fs:/b /proc/self nfs rw,vers=3,local_lock=all 0 0\n"
        "fs:/c /with\\040space lustre rw,localflock 0 0\n"
    )
    assert mount_of(Path("/"), mounts).kind == "ext4"
    assert local_locks(mount_of(Path("/proc"), mounts)) == []
    assert mount_of(Path("/with space/store"), mounts).kind == "lustre"
    (sentence,) = local_locks(mount_of(Path("/with space/store"), mounts))
    assert "'/with space' (lustre) is mounted with localflock" in sentence
    assert "do not reach other machines" in sentence


def test_who_has_the_port_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        result = doctor("--port", str(port))
    assert result.exit_code == 1
    assert f"port {port} is taken by" in result.stderr
    assert "--port" in result.stderr


def test_a_port_lent_to_a_connection_is_told_from_a_listener() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        port = client.getsockname()[1]
        result = doctor("--port", str(port))
    assert result.exit_code == 1
    assert f"ip_local_reserved_ports={port}" in result.stderr


def test_a_service_of_ours_on_the_port_is_no_problem() -> None:
    script = (
        "import socket, sys; s = socket.create_server(('127.0.0.1', 0)); print(s.getsockname()[1], flush=True); input()"
    )
    command = [sys.executable, "-c", script, "serve", "detector"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        result = doctor("--port", process.stdout.readline().strip())
        process.communicate("\n")
    assert result.exit_code == 0, result.output
    assert f"(pid {process.pid})" in result.output


def test_localhost_must_be_this_machine() -> None:
    assert check_localhost(lambda: ["127.0.0.1"]) == ("127.0.0.1", [])
    _, (elsewhere,) = check_localhost(lambda: ["10.1.2.3"])
    assert "stands for 10.1.2.3" in elsewhere
    assert "/etc/hosts" in elsewhere

    def unknown() -> list[str]:
        raise socket.gaierror(-2, "Name or service not known")

    _, (sentence,) = check_localhost(unknown)
    assert "does not resolve" in sentence


def test_gpus_that_torch_cannot_use_are_problems(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    def problems(
        driver: str | None, cuda: str | None, count: int = 0, failures: dict[str, str] | None = None
    ) -> list[str]:
        return gpu_problems(driver=driver, cuda=cuda, torch_version="2.11", count=count, failures=failures or {})

    assert problems(None, None) == []
    assert problems(None, "13.0") == []
    assert problems("580.1", "13.0", 1) == []
    (for_cpu,) = problems("580.1", None)
    assert "built for the CPU" in for_cpu
    (old,) = problems("470.1", "13.0", failures={"torch": "The NVIDIA driver is too old"})
    assert "driver 470.1" in old
    assert "(The NVIDIA driver is too old)" in old
    (kernel,) = problems("580.1", "13.0", 2, {"cuda:1 (Old)": "no kernel image"})
    assert kernel.startswith("cuda:1 (Old) cannot compute: no kernel image")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert problems("580.1", "13.0") == []


@pytest.mark.parametrize(
    ("environment", "state"),
    [
        ({}, "none"),
        (
            {"http_proxy": "http://me:secret@proxy:3128", "no_proxy": ".lab"},
            "http_proxy=http://proxy:3128, no_proxy=.lab; calls to services on other machines go through http_proxy, "
            "on this machine always directly",
        ),
        (
            {"HTTPS_PROXY": "http://proxy:3128", "all_proxy": "socks5://proxy"},
            "all_proxy=socks5://proxy, HTTPS_PROXY=http://proxy:3128; calls to services on other machines go directly, "
            "on this machine always directly",
        ),
    ],
)
def test_proxies_are_shown_with_what_goes_through_them(environment: dict[str, str], state: str) -> None:
    assert check_proxies(environment) == (state, [])
