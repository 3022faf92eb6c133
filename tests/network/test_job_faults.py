"""Faults around a training job of one machine: its client, its service, its disk. The job itself loses nothing."""

import re
import time

import pytest

from recognizer_svc.runs.run_dir import RunDir
from recognizer_svc.service.launch import LAUNCHER_MODULE
from tests.network.hosts import Finished, until
from tests.network.training import EPOCHS, GRACE_S, Site, assert_same_bits, epochs_saved, latest

pytestmark = [pytest.mark.network, pytest.mark.timeout(600)]

CUT_S = 20
LONG = 100  # epochs


def shown_epochs(finished: Finished) -> list[int]:
    return [int(number) for number in re.findall(r"^epoch (\d+)/\d+: loss", finished.stderr, flags=re.MULTILINE)]


def assert_whole_history(finished: Finished, epochs: int) -> None:
    assert finished.returncode == 0, finished
    assert shown_epochs(finished) == list(range(1, epochs + 1))


def longer(epochs: int) -> tuple[str, str]:
    return ("--set", f"training.epochs={epochs}")


def test_a_job_goes_on_without_the_laptop_and_is_watched_again_from_its_beginning(site: Site) -> None:
    site.train("orphan", *longer(LONG))
    site.wait_for_epoch("orphan", 5)
    site.laptop.die()
    gone_at = epochs_saved(site.run_on("a", "orphan"))
    assert gone_at < LONG
    site.wait_for_epoch("orphan", min(gone_at + 10, LONG))
    site.laptop.boot()
    assert_whole_history(site.jobs("watch", "orphan").wait(seconds=240), LONG)


def test_a_client_whose_link_is_cut_for_20_s_misses_nothing(site: Site) -> None:
    client = site.train("cut-client", *longer(LONG))
    site.wait_for_epoch("cut-client", 5)
    site.laptop.cut()
    end = time.monotonic() + CUT_S
    until(lambda: time.monotonic() > end or not client.alive, "20 s", seconds=CUT_S + 10)
    site.laptop.restore()
    assert_whole_history(client.wait(seconds=240), LONG)


def test_a_client_whose_link_is_cut_for_good_says_so_and_the_job_ends_well(site: Site) -> None:
    client = site.train("left-client", *longer(LONG))
    site.wait_for_epoch("left-client", 5)
    site.laptop.cut()
    try:
        failed = client.wait(seconds=400)
        site.wait_for_epoch("left-client", LONG, seconds=240)
    finally:
        site.laptop.restore()
    assert failed.returncode == 1
    assert f"The recognizer service at {site.recognizers['a'].address} does not answer" in failed.stderr
    assert "jobs watch left-client" in failed.stderr
    assert_whole_history(site.jobs("watch", "left-client").wait(), LONG)


def test_a_killed_service_finds_its_running_job_again_and_so_does_the_client(site: Site) -> None:
    client = site.train("kept", *longer(100_000))
    site.wait_for_epoch("kept", 5)
    site.recognizers["a"].kill()
    without = epochs_saved(site.run_on("a", "kept"))
    site.wait_for_epoch("kept", without + 5)
    site.restart("a")
    listed = site.jobs("list").wait()
    assert re.search(r"kept\W+train\W+running", listed.stdout), listed
    client.until_said(f"epoch {without + 10}/")
    cancelled = site.jobs("cancel", "kept").wait()
    assert "kept: cancelled" in cancelled.stdout
    ended = client.wait()
    assert ended.returncode == 1
    assert "Run kept cancelled" in ended.stderr
    assert shown_epochs(ended) == list(range(1, len(shown_epochs(ended)) + 1))
    assert latest(site.run_on("a", "kept")).progress.epochs_done >= without + 10


def test_a_job_that_ended_while_no_service_ran_is_found_as_what_it_is(site: Site) -> None:
    site.train("unseen", *longer(LONG))
    site.wait_for_epoch("unseen", 5)
    host = site.recognizers["a"].host
    site.recognizers["a"].kill()
    until(lambda: not host.processes(LAUNCHER_MODULE), "the job ends", seconds=240)
    site.restart("a")
    assert re.search(r"unseen\W+train\W+succeeded", site.jobs("list").wait().stdout)
    assert_whole_history(site.jobs("watch", "unseen").wait(), LONG)


def test_sigterm_leaves_the_job_to_the_next_service(site: Site) -> None:
    client = site.train("handed", *longer(LONG))
    site.wait_for_epoch("handed", 5)
    site.recognizers["a"].stop(seconds=GRACE_S + 5)
    site.restart("a")
    assert_whole_history(client.wait(seconds=240), LONG)


def test_sigterm_with_cancel_jobs_writes_a_checkpoint_first(site: Site, calm: RunDir) -> None:
    site.recognizers["a"].stop(seconds=GRACE_S + 5)
    site.restart("a", "--cancel-jobs")
    client = site.train("drained")
    site.wait_for_epoch("drained", 5)
    service = site.recognizers["a"]
    service.stop(seconds=GRACE_S + 10)
    assert service.host.processes("recognizer_svc.training.worker") == []
    run = site.run_on("a", "drained")
    saved = latest(run).progress
    assert 5 <= saved.epochs_done < EPOCHS
    site.restart("a")
    assert "Run drained cancelled" in client.wait().stderr
    assert site.train("drained", "--resume").wait().returncode == 0
    assert_same_bits(run, calm)
