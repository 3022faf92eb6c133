"""Faults while two machines fill one feature set in the bucket: whatever happens, the same command goes on, and the
set ends as one that was computed undisturbed."""

import json
import re
import signal
import sys
import time
from pathlib import Path

import pytest

from tests.detector.samples import write_dataset
from tests.network.hosts import Host, Network, Program, until
from tests.network.services import BUCKET, STORE_PORT, copy_to, credentials, start_recognizer

pytestmark = [pytest.mark.network, pytest.mark.timeout(600)]

CUT_S = 20
GIVES_UP_S = 240
"""Attempts are begun for 120 s; the last, and a renewal of a claim, may each wait 30 s for a reply."""
HOSTS = ("recognizer-a", "recognizer-b")
KEY_FRAMES = 64
BATCHES = ("--batch-size", 2, "--rows-per-shard", 4)
BACKBONE = ("--slowfast", "random:0", "--slowfast-preset", "tiny")
SERVICE_PORT = 50060


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
    what = (host.disk / "filled", "--split", "train", *BACKBONE, *BATCHES)
    return host.start("precompute", *what, "--store", store, *options)


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
    """Every row is there, and what it is in the undisturbed set, up to rounding."""
    alone = network["alone"]
    alone.run("cache", "copy", f"s3://{BUCKET}/{name}", alone.disk / f"copy-{name}")
    (found,), (reference,) = (
        root.glob("features/small/train/[!.]*") for root in (alone.disk / f"copy-{name}", expected)
    )
    compared = json.loads(alone.run("cache", "diff", found, reference, "--json").stdout)
    assert compared["equal"] + len(compared["rounded"]) == KEY_FRAMES


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


def shards_written(network: Network, name: str) -> dict[str, str]:
    """The objects of finished shards, and when the bucket got them."""
    url = f"http://store:{STORE_PORT}/{BUCKET}?list-type=2&prefix={name}/features/"
    read = f"import urllib.request as r; print(r.urlopen('{url}').read().decode())"
    listed = network["store"].start_program(sys.executable, "-c", read).wait().stdout
    objects = dict(re.findall(r"<Key>([^<]*/c/[^<]*)</Key><LastModified>([^<]*)<", re.sub(r">\s+<", "><", listed)))
    done = {key.rpartition("/")[2] for key in objects if "/done/c/" in key}
    return {key: time for key, time in objects.items() if key.partition("/c/")[2].split("/")[0] in done}


def finished_shards(objects: dict[str, str]) -> int:
    return sum("/done/c/" in key for key in objects)


def test_a_job_over_two_machines_is_finished_by_the_one_that_does_not_die(network: Network, expected: Path) -> None:
    name, laptop, (dying, other) = "jobs", network["laptop"], (network[host] for host in HOSTS)
    services = [
        start_recognizer(
            *(host, f"s3://{BUCKET}/{name}", "--data-root", host.disk, *BACKBONE, "--device", "cpu"), port=SERVICE_PORT
        )
        for host in (dying, other)
    ]
    where = ("--recognizer", ",".join(service.address for service in services), *credentials(laptop))
    before = [host.sent_bytes() for host in (dying, other)]
    for host in (dying, other):
        host.limit_rate("100kbit")  # so that sending the rows takes seconds
    try:
        client = laptop.start("precompute", "filled", "--split", "train", *BATCHES, *where, "--json")

        def both_are_at_it() -> bool:
            sent = [host.sent_bytes() - count for host, count in zip((dying, other), before, strict=True)]
            return min(sent) > 60_000 and finished_shards(shards_written(network, name)) >= 4

        until(lambda: both_are_at_it() or not client.alive, "both machines have sent rows", seconds=240)
        services[0].kill()
        for process in dying.processes("recognizer_svc.precompute.worker"):
            process.kill()
        kept = shards_written(network, name)
        assert 4 <= finished_shards(kept) <= KEY_FRAMES // 4 - 2
    finally:
        for host in (dying, other):
            host.limit_rate(None)
    finished = client.wait(seconds=400)
    assert finished.returncode == 0, finished
    assert "The other services go on." in finished.stderr
    *shown, result = map(json.loads, finished.stdout.splitlines())
    assert (result["rows"], result["of"]) == (KEY_FRAMES, KEY_FRAMES)
    # A line every 10 s of the 120 s for which the claims of the dead hold says that rows are missing.
    assert sum(line["done"] == KEY_FRAMES for line in shown if line["phase"] == "extract") <= 6
    # Nothing that was finished is written again.
    written = shards_written(network, name)
    assert finished_shards(written) == KEY_FRAMES // 4
    assert {key: time for key, time in written.items() if key in kept} == kept
    assert_as_expected(network, name, expected)
    services[1].stop(seconds=30)
