"""Faults while two machines fill one feature set in the bucket: whatever happens, the same command goes on, and the
set ends as one that was computed undisturbed."""

import signal
import time
from pathlib import Path

import pytest

from tests.detector.samples import write_dataset
from tests.network.hosts import Finished, Host, Network, Program, until
from tests.network.services import BUCKET, copy_to

pytestmark = [pytest.mark.network, pytest.mark.timeout(600)]

CUT_S = 20
GIVES_UP_S = 240
"""Attempts are begun for 120 s; the last, and a renewal of a claim, may each wait 30 s for a reply."""
HOSTS = ("recognizer-a", "recognizer-b")
KEY_FRAMES = 64


@pytest.fixture(scope="module")
def expected(network: Network) -> Path:
    """A store with the set, computed undisturbed on another machine."""
    data = write_dataset(network.root / "filled", videos=16, seconds=5)
    copy_to(data, network["alone"], *(network[name] for name in HOSTS))
    alone = network["alone"]
    finished = precompute(alone, str(alone.disk / "filled-store")).wait()
    assert finished.returncode == 0, finished
    return alone.disk / "filled-store"


def precompute(host: Host, store: str, *options: object) -> Program:
    backbone = ("--slowfast", "random:0", "--slowfast-preset", "tiny", "--batch-size", 2, "--rows-per-shard", 4)
    return host.start("precompute", host.disk / "filled", "--split", "train", "--store", store, *backbone, *options)


@pytest.fixture(scope="module")
def half(network: Network, expected: Path) -> int:
    """Bytes that the store receives until half of the rows are there."""
    before = network["store"].received_bytes()
    assert_ended_well(start_both(network, "undisturbed"))
    return (network["store"].received_bytes() - before) // 2


def start_both(network: Network, name: str) -> list[Program]:
    return [precompute(network[host], f"s3://{BUCKET}/{name}", "--shard", f"{k}/2") for k, host in enumerate(HOSTS, 1)]


def start_to_half(network: Network, name: str, half: int) -> list[Program]:
    before = network["store"].received_bytes()
    programs = start_both(network, name)
    until(lambda: network["store"].received_bytes() - before > half, "half of the rows are sent", seconds=180)
    assert all(program.alive for program in programs)
    return programs


def assert_ended_well(programs: list[Program]) -> None:
    for program in programs:
        finished = program.wait(seconds=240)
        assert finished.returncode == 0, finished


def assert_as_expected(network: Network, name: str, expected: Path) -> None:
    """Every row has the digest that it has in the undisturbed set."""
    alone = network["alone"]
    alone.run("cache", "copy", f"s3://{BUCKET}/{name}", alone.disk / f"copy-{name}")
    (found,), (reference,) = (
        root.glob("features/small/train/[!.]*") for root in (alone.disk / f"copy-{name}", expected)
    )
    compared: Finished = alone.run("cache", "diff", found, reference)
    assert f"equal rows: {KEY_FRAMES}" in compared.stdout


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_stopped_machine_goes_on_with_the_same_command(
    network: Network, expected: Path, half: int, number: signal.Signals
) -> None:
    name = f"stopped-{number.name.lower()}"
    stopped, other = start_to_half(network, name, half)
    begin = time.monotonic()
    stopped.send(number)
    # Not 0: a scheduler would take the set for finished.
    assert stopped.wait(seconds=20).returncode == -number
    assert time.monotonic() - begin < 20
    assert_ended_well([other])
    assert_ended_well(start_both(network, name)[:1])
    assert_as_expected(network, name, expected)


def test_a_link_that_is_cut_for_20_s_only_delays(network: Network, expected: Path, half: int) -> None:
    programs = start_to_half(network, "cut", half)
    network[HOSTS[0]].cut()
    end = time.monotonic() + CUT_S
    until(lambda: time.monotonic() > end or not programs[0].alive, "20 s", seconds=CUT_S + 10)
    network[HOSTS[0]].restore()
    assert_ended_well(programs)
    assert_as_expected(network, "cut", expected)


def test_without_the_store_it_keeps_trying_and_when_stopped_goes_on_with_the_same_command(
    network: Network, expected: Path, half: int
) -> None:
    programs = start_to_half(network, "gone", half)
    network["store"].cut()
    try:
        end = time.monotonic() + CUT_S
        until(lambda: time.monotonic() > end or not all(p.alive for p in programs), "20 s", seconds=CUT_S + 10)
        for program in programs:
            assert program.alive, program.output
            program.send(signal.SIGTERM)
            assert program.wait(seconds=20).returncode == -signal.SIGTERM
    finally:
        network["store"].restore()
    assert_ended_well(start_both(network, "gone"))
    assert_as_expected(network, "gone", expected)


def test_without_the_store_for_good_it_gives_up_and_goes_on_with_the_same_command(
    network: Network, expected: Path, half: int
) -> None:
    programs = start_to_half(network, "lost", half)
    network["store"].cut()
    try:
        for program in programs:
            finished = program.wait(seconds=GIVES_UP_S)
            assert finished.returncode == 1
            assert "What was finished before is safe; run the same command again" in finished.stderr
    finally:
        network["store"].restore()
    assert_ended_well(start_both(network, "lost"))
    assert_as_expected(network, "lost", expected)
