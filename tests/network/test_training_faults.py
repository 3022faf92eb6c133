"""Faults in a training over two machines, whose store is a bucket: it goes on by itself, or fails and is resumed, and
ends with the same bits as an undisturbed one."""

import signal
import time

import pytest

from recognizer_svc.runs.run_dir import RunDir
from recognizer_svc.service.launch import LAUNCHER_MODULE
from tests.network.hosts import Program, until
from tests.network.training import Site, assert_same_bits, events

pytestmark = [pytest.mark.network, pytest.mark.timeout(600)]

CUT_S = 20


def assert_trained(programs: list[Program]) -> None:
    for program in programs:
        finished = program.wait(seconds=300)
        assert finished.returncode == 0, finished


def test_a_killed_rank_is_restarted_from_the_last_checkpoint(site: Site, calm_on_both: RunDir) -> None:
    clients = site.train_on_both("killed", "--max-restarts", 1)
    site.wait_for_epoch("killed", 5)
    (worker,) = workers_of(site, "b")
    worker.send_signal(signal.SIGKILL)
    assert_trained(clients)
    run = site.run_on("a", "killed")
    told = [event.values["message"] for event in events(run) if event.type == "log"]
    assert any(text.startswith("resumed after") for text in told), told
    assert_same_bits(run, calm_on_both)


def test_without_restarts_a_killed_rank_fails_the_job_which_is_resumed(site: Site, calm_on_both: RunDir) -> None:
    clients = site.train_on_both("failed")
    site.wait_for_epoch("failed", 5)
    (worker,) = workers_of(site, "b")
    worker.send_signal(signal.SIGKILL)
    for client in clients:
        finished = client.wait(seconds=120)
        assert finished.returncode == 1
        assert "Run failed failed:" in finished.stderr
        assert "Traceback (most recent call last):\n  File" not in finished.stderr.partition("Run failed failed:")[0]
    assert_trained(site.train_on_both("failed", "--resume"))
    assert_same_bits(site.run_on("a", "failed"), calm_on_both)


def test_a_link_that_is_cut_for_20_s_only_delays(site: Site, calm_on_both: RunDir) -> None:
    clients = site.train_on_both("cut")
    site.wait_for_epoch("cut", 5)
    site.recognizers["b"].host.cut()
    end = time.monotonic() + CUT_S
    until(lambda: time.monotonic() > end or not clients[0].alive, "20 s", seconds=CUT_S + 10)
    assert all(client.alive for client in clients), [client.output for client in clients]
    site.recognizers["b"].host.restore()
    assert_trained(clients)
    assert_same_bits(site.run_on("a", "cut"), calm_on_both)


def test_a_link_that_is_cut_for_good_fails_the_job_which_is_resumed(site: Site, calm_on_both: RunDir) -> None:
    clients = site.train_on_both("lost", "--set", "training.collective_timeout_s=10")
    site.wait_for_epoch("lost", 5)
    site.recognizers["b"].host.cut()
    try:
        failed = clients[0].wait(seconds=180)
        assert failed.returncode == 1
        assert "Run lost failed:" in failed.stderr
        # The other machine notices by itself, too: nobody can tell it.
        until(lambda: not workers_of(site, "b"), "the ranks behind the cut end", seconds=180)
    finally:
        site.recognizers["b"].host.restore()
    assert clients[1].wait(seconds=180).returncode == 1
    assert_trained(site.train_on_both("lost", "--resume"))
    assert_same_bits(site.run_on("a", "lost"), calm_on_both)


def workers_of(site: Site, key: str) -> list:
    found = site.recognizers[key].host.processes("recognizer_svc.training.worker")
    return [process for process in found if LAUNCHER_MODULE not in " ".join(process.cmdline())]
