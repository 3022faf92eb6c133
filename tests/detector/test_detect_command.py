"""`serve detector` and `detect` as a user runs them, against one real service process."""

import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
from click.testing import CliRunner, Result

from cache.proposal_store import open_proposals
from cache.split_store import load_split
from cache.store import Store
from cli.commands.detect import detect
from protos.generated import detector_pb2 as pb
from protos.generated import detector_pb2_grpc as rpc
from stal_data.errors import InputError, NotFoundError
from stal_data.keyframes import KeyFrame
from svc_common.client import open_channel
from svc_common.config import ClientConfig
from svc_common.errors import ServiceUnavailableError
from tests.detector.samples import encoded, picture, start, write_dataset


@pytest.fixture(scope="module")
def service(weights: Path, dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a service process; its drain at the end is a test of its own."""
    port_file = tmp_path_factory.mktemp("service") / "port"
    process = start(
        *("--weights", weights, "--image-size", "90x160", "--confidence", 0.5, "--device", "cpu"),
        *("--port", 0, "--port-file", port_file, "--data-root", dataset.parent),
    )
    assert process.stdout is not None
    try:
        ready = process.stdout.readline()
        assert ready == f"detector ready on 127.0.0.1:{port_file.read_text().strip()}\n"
        yield ready.split()[-1]
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=250)
        assert process.returncode == 0, errors
        assert "drains" in errors
        assert "Traceback" not in errors
    finally:
        process.kill()
        process.communicate()


def run(*arguments: object) -> Result:
    result = CliRunner().invoke(detect, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def test_both_ways_write_the_same_proposals(service: str, dataset: Path, tmp_path: Path) -> None:
    own = run(dataset, "--split", "train", "--store", tmp_path / "store", "--detector", service)
    theirs = run(
        *(dataset.name, "--split", "train", "--store", tmp_path / "store", "--detector", service),
        *("--server-side", "--name", "theirs"),
    )
    assert own.exit_code == theirs.exit_code == 0
    store = Store.open(tmp_path / "store")
    ours, server_side = (open_proposals(store, "small", "train", name) for name in ("tiny", "theirs"))
    assert ours.key_frames == server_side.key_frames
    assert ours.key_frames == tuple(KeyFrame(f"v{video}", 1000 * second) for video in range(3) for second in (1, 2, 3))
    np.testing.assert_array_equal(ours.offsets_K1, server_side.offsets_K1)
    np.testing.assert_array_equal(ours.boxes_N4, server_side.boxes_N4)
    assert ours.scores_N.min() >= 0.5
    assert (ours.detector.height, ours.detector.width, ours.detector.confidence) == (90, 160, 0.5)
    assert f"{len(ours.boxes_N4)} boxes on 9 key frames, 0 of them without people" in own.stdout
    assert len(load_split(store, "small", "train").key_frames) == 9
    assert "detecting: 9/9 key frames" in own.stderr


def test_addresses_from_the_environment_with_one_that_is_not_there(
    service: str, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        nobody = f"127.0.0.1:{probe.getsockname()[1]}"
    port = service.split(":")[1]
    monkeypatch.setenv("STAL_DETECTOR", f"{nobody} dns:///localhost:{port}")
    assert run(dataset, "--split", "train", "--store", tmp_path / "store").exit_code == 0
    assert len(open_proposals(Store.open(tmp_path / "store"), "small", "train").key_frames) == 9
    with pytest.raises(InputError, match=f"one address instead of {nobody}, dns:///localhost:{port}"):
        run(dataset.name, "--split", "train", "--store", tmp_path / "store", "--server-side")


def test_undecodable_frames_are_listed_and_nothing_is_written(service: str, dataset: Path, tmp_path: Path) -> None:
    damaged = write_dataset(tmp_path / "damaged", videos=2)
    (damaged / "frames" / "v1" / "v1_000054.png").write_bytes(b"not an image")
    with pytest.raises(InputError, match=r"1 of 6 key frames .*'v1,0002' is not a JPEG, PNG, WebP or BMP"):
        run(damaged, "--split", "train", "--store", tmp_path / "store", "--detector", service)
    assert not list(tmp_path.glob("store/**/*.h5"))


def test_a_missing_frame_is_named(service: str, tmp_path: Path) -> None:
    damaged = write_dataset(tmp_path / "damaged", videos=2)
    (damaged / "frames" / "v1" / "v1_000054.png").unlink()
    with pytest.raises(InputError, match="Frame 54 of video 'v1' is missing"):
        run(damaged, "--split", "train", "--store", tmp_path / "store", "--detector", service)


async def read_into(answered: set[str], call: "grpc.aio.StreamStreamCall[object, pb.DetectResponse]") -> None:
    while True:
        answered.add((await call.read()).frame_id)


async def test_sigterm_answers_what_was_accepted(weights: Path, tmp_path: Path) -> None:
    process = start("--weights", weights, "--image-size", "90x160", "--device", "cpu", "--port", 0)
    try:
        assert process.stdout is not None
        address = process.stdout.readline().split()[-1]
        async with open_channel(ClientConfig(address=address)) as channel:
            call = rpc.DetectorStub(channel).Detect()
            for number in range(20):
                await call.write(pb.DetectRequest(frame_id=str(number), image=encoded(picture(number))))
            answered = {(await call.read()).frame_id}
            process.send_signal(signal.SIGTERM)  # the stream stays open
            with pytest.raises(grpc.aio.AioRpcError, match="the service is stopping"):
                await read_into(answered, call)
        _, errors = process.communicate(timeout=250)
        assert process.returncode == 0, errors
        assert "Traceback" not in errors
        # Frames that were still on their way are the client's to send again; there is no gap among the others.
        assert answered == {str(number) for number in range(len(answered))}
    finally:
        process.kill()
        process.communicate()


def test_a_service_that_cannot_start_says_why_in_one_line(service: str, weights: Path) -> None:
    process = start("--weights", weights, "--port", service.split(":")[1])
    _, errors = process.communicate(timeout=250)
    assert process.returncode == 1
    assert f"{service} cannot be bound: Address already in use" in errors
    assert "Traceback" not in errors


def test_a_service_that_is_not_running_says_how_to_start_it(dataset: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    with pytest.raises(ServiceUnavailableError, match=f"stal-cli serve detector --port {port}"):
        run(dataset, "--split", "train", "--store", tmp_path, "--detector", f"127.0.0.1:{port}", "--wait-s", "0")


def test_bad_options_are_usage_errors(dataset: Path, tmp_path: Path) -> None:
    assert run(dataset, "--store", tmp_path).exit_code == 2
    with pytest.raises(NotFoundError, match="train"):
        run(dataset, "--split", "trian", "--store", tmp_path, "--detector", "127.0.0.1:1")
    from cli.commands.serve_detector import detector

    result = CliRunner().invoke(detector, ["--weights", "w.pt", "--image-size", "180"])
    assert result.exit_code == 2
    assert "180x320" in result.stderr


def test_every_command_that_starts_a_detector_has_the_defaults_of_the_detector() -> None:
    from cli.commands.infer import infer
    from cli.commands.models_pack import pack
    from cli.commands.serve_detector import detector
    from detector_svc.detector_protocol import DetectorConfig

    known = DetectorConfig(weights=Path("w.pt"))
    for command in (detector, infer, pack):
        helped = " ".join(CliRunner().invoke(command, ["--help"]).stdout.split())
        assert f"Least box confidence. [default: {known.confidence}]" in helped
        assert f"IoU above which two boxes are one person. [default: {known.overlap}]" in helped
