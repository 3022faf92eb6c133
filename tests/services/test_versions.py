"""Client and service state the version of the interface; pairs that do not fit are refused."""

import shutil
import subprocess
import sys
from pathlib import Path

import grpc
import pytest

from protos.generated import detector_pb2 as pb
from stal_data.errors import ConflictError
from svc_common import client, interceptors
from svc_common.client import call_metadata
from svc_common.errors import error_of
from svc_common.version import API_VERSION, VERSION_HEADER, check_client
from tests.detector.samples import make_client
from tests.services.echo import calling, serving

ROOT = Path(__file__).parents[2]
MAJOR, MINOR = map(int, API_VERSION.split("."))


@pytest.mark.parametrize(
    ("stated", "service", "upgrade"),
    [
        ("2.0", "1.4", "Upgrade the service (services go first)"),
        ("1.5", "1.4", "Upgrade the service (services go first)"),
        ("1.4", "2.0", "Upgrade the client"),
        ("0.9", "1.0", "Upgrade the client"),
    ],
)
def test_a_refusal_names_both_versions_and_what_to_upgrade(stated: str, service: str, upgrade: str) -> None:
    with pytest.raises(ConflictError) as caught:
        check_client(stated, service=service)
    assert f"client speaks API version {stated}, the service {service}" in str(caught.value)
    assert upgrade in str(caught.value)


@pytest.mark.parametrize(("stated", "service"), [("1.0", "1.0"), ("1.0", "1.7"), ("1.10", "1.10"), (None, "3.1")])
def test_older_minors_and_unstated_versions_are_served(stated: str | None, service: str) -> None:
    check_client(stated, service=service)


@pytest.mark.parametrize("stated", ["", "1", "1.0.0", "one", "-1.0", "1.99999", "x" * 5000])
def test_what_is_no_version_is_refused(stated: str) -> None:
    with pytest.raises(ConflictError, match=r"must be MAJOR\.MINOR"):
        check_client(stated)


@pytest.mark.parametrize("stated", [f"{MAJOR + 1}.0", f"{MAJOR}.{MINOR + 1}", f"{MAJOR - 1}.0"])
async def test_the_project_client_learns_of_a_service_that_does_not_fit(
    stated: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving() as (server, service):
        service.release.set()
        monkeypatch.setattr(client, "API_VERSION", stated)
        other = make_client(server.port)
        with pytest.raises(ConflictError, match=f"API version {stated}, the service {API_VERSION}"):
            await other.info()
        with pytest.raises(ConflictError, match=f"API version {stated}, the service {API_VERSION}"):
            [item async for item in other.propose("a", "b")]
        monkeypatch.undo()
        present = make_client(server.port)
        assert (await present.info()).name == "echo"


async def test_a_later_service_serves_this_client_and_a_new_major_refuses_it(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving() as (server, echo):
        this = make_client(server.port)
        echo.release.set()
        for service, fits in ((f"{MAJOR}.{MINOR + 3}", True), (f"{MAJOR + 1}.0", False)):
            monkeypatch.setattr(
                interceptors, "check_client", lambda stated, service=service: check_client(stated, service=service)
            )
            if fits:
                assert (await this.info()).name == "echo"
            else:
                with pytest.raises(ConflictError, match="Upgrade the client"):
                    await this.info()


async def test_a_client_of_the_first_interface_is_told_to_upgrade() -> None:
    """Its calls have other names, and its times are in seconds."""
    async with serving() as (server, _), grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        call = channel.unary_unary("/stal.detector.v1.Detector/GetInfo")
        with pytest.raises(grpc.aio.AioRpcError, match=r"API version 1\.2, the service 2\.\d.* Upgrade the client"):
            await call(b"", metadata=((VERSION_HEADER, "1.2"),))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(b"")
        assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED


async def test_answers_and_refusals_state_the_version_of_the_service() -> None:
    async with serving() as (server, _), calling(server.port) as stub:
        call = stub.GetInfo(pb.GetInfoRequest(), metadata=call_metadata())
        await call
        assert (VERSION_HEADER, API_VERSION) in tuple(await call.trailing_metadata())
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.GetInfo(pb.GetInfoRequest(), metadata=((VERSION_HEADER, "99.0"),))
        assert (VERSION_HEADER, API_VERSION) in tuple(caught.value.trailing_metadata())
        assert isinstance(error_of(caught.value, service="detector", address="h:1"), ConflictError)


@pytest.mark.parametrize(
    ("old", "new", "fits"),
    [
        ("string split = 2;", "string split = 2;\n  // Of both.\n  string label = 3;", True),
        ("string split = 2;", "string split = 7;", False),
        ("string split = 2;", "string part = 2;", False),
        ("  rpc GetInfo(GetInfoRequest) returns (GetInfoResponse);", "", False),
        ("string split = 2;", "string Split = 2;", False),
    ],
    ids=["added", "renumbered", "renamed", "call removed", "badly named"],
)
def test_changes_that_break_the_last_release_fail_the_check(tmp_path: Path, old: str, new: str, fits: bool) -> None:
    shutil.copyfile(ROOT / "buf.yaml", tmp_path / "buf.yaml")
    shutil.copytree(ROOT / "protos", tmp_path / "protos", ignore=shutil.ignore_patterns("generated", "__pycache__"))
    proto = tmp_path / "protos" / "detector.proto"
    text = proto.read_text()
    assert old in text
    proto.write_text(text.replace(old, new, 1))
    command = [sys.executable, str(ROOT / "scripts" / "check_protos.py"), "--root", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode == 0) is fits, done.stdout + done.stderr
