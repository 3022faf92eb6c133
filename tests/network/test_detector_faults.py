"""Detectors and links fail in the middle of a stream: no frame is lost or doubled, or the error says what to do."""

import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from cache.proposal_store import Proposals, open_proposals
from cache.store import Store
from tests.detector.samples import write_dataset
from tests.network.hosts import Host, Network, Program, until
from tests.network.services import Service, credentials, start_detector

pytestmark = [pytest.mark.network, pytest.mark.timeout(600)]

GRACE_S = 10
CUT_S = 20


@dataclass(kw_only=True)
class Site:
    """A laptop with a data set, behind a line so thin that sending it takes seconds, and two detectors."""

    laptop: Host
    detectors: dict[str, Service]
    data: Path
    expected: Proposals
    """What an undisturbed run finds."""

    def detect(self, name: str, *detectors: str, timeout_s: float = 60) -> Program:
        where = ",".join(self.detectors[key].address for key in detectors)
        return self.laptop.start(
            *("detect", self.data, "--split", "train", "--store", self.laptop.disk / "store", "--name", name),
            *("--timeout-s", timeout_s, "--detector", where, *credentials(self.laptop)),
        )

    def start_detecting(self, name: str, *detectors: str, timeout_s: float = 60) -> Program:
        """Start, and wait until each of the detectors has frames and most are still to be sent."""
        hosts = [self.detectors[key].host for key in detectors]
        before = [host.received_bytes() for host in hosts]
        program = self.detect(name, *detectors, timeout_s=timeout_s)
        for host, count in zip(hosts, before, strict=True):
            until(lambda host=host, count=count: host.received_bytes() - count > 400_000, "frames arrive")
        assert program.alive, program.output
        return program

    def restart(self, key: str) -> None:
        self.detectors[key] = start_detector(self.detectors[key].host, "--grace-s", GRACE_S)

    def assert_complete(self, name: str) -> None:
        found = open_proposals(Store.open(self.laptop.disk / "store"), "small", "train", name)
        assert found.key_frames == self.expected.key_frames
        np.testing.assert_array_equal(found.offsets_K1, self.expected.offsets_K1)
        np.testing.assert_array_equal(found.boxes_N4, self.expected.boxes_N4)
        np.testing.assert_array_equal(found.scores_N, self.expected.scores_N)

    def has_proposals(self, name: str) -> bool:
        return (self.laptop.disk / "store" / "proposals" / "small" / "train" / f"{name}.h5").exists()


@pytest.fixture(scope="module")
def site(network: Network) -> Iterator[Site]:
    laptop = network["laptop"]
    data = write_dataset(laptop.disk / "small", videos=30, seconds=5)
    detectors = {key: start_detector(network[f"detector-{key}"], "--grace-s", GRACE_S) for key in "ab"}
    site = Site(laptop=laptop, detectors=detectors, data=data, expected=None)
    assert site.detect("expected", "a", "b").wait().returncode == 0
    site.expected = open_proposals(Store.open(laptop.disk / "store"), "small", "train", "expected")
    assert len(site.expected.key_frames) == 120
    assert len(site.expected.boxes_N4) > 120
    laptop.limit_rate("3mbit")
    yield site
    laptop.limit_rate(None)
    for detector in site.detectors.values():
        detector.stop(seconds=GRACE_S + 5)


def pass_seconds(seconds: float, meanwhile: Callable[[], bool]) -> None:
    """Let time pass because the scenario is about time; `meanwhile` must hold all the while."""
    end = time.monotonic() + seconds
    until(lambda: time.monotonic() >= end or not meanwhile(), "time passes", seconds=seconds + 10)
    assert meanwhile()


def test_the_frames_of_a_killed_detector_go_to_the_other(site: Site) -> None:
    detecting = site.start_detecting("killed", "a", "b")
    # Frozen first, so that it holds frames that it has not answered.
    host = site.detectors["a"].host
    site.detectors["a"].program.send(signal.SIGSTOP)
    before = host.received_bytes()
    until(lambda: host.received_bytes() - before > 60_000, "frames arrive that nobody answers")
    site.detectors["a"].kill()
    finished = detecting.wait()
    site.restart("a")
    assert finished.returncode == 0, finished
    assert "unanswered frames are sent again" in finished.stderr
    site.assert_complete("killed")


def test_with_the_only_detector_killed_the_error_says_how_to_go_on(site: Site) -> None:
    host = site.detectors["b"].host
    before = host.received_bytes()
    detecting = site.start_detecting("alone", "b")
    site.detectors["b"].kill()
    failed = detecting.wait(seconds=180)
    sent_first = host.received_bytes() - before
    assert failed.returncode == 1
    assert f"The detector service at {site.detectors['b'].address} does not answer" in failed.stderr
    assert (
        "of 120 key frames have their answers, which are kept: the same command goes on with the rest" in failed.stderr
    )
    assert "Traceback" not in failed.stderr
    assert not site.has_proposals("alone")

    site.restart("b")
    before = host.received_bytes()
    again = site.detect("alone", "b").wait()
    assert again.returncode == 0, again
    site.assert_complete("alone")
    # What was answered is not sent again.
    assert sent_first > 400_000
    assert host.received_bytes() - before < 2_600_000


def test_a_detector_that_is_back_in_time_is_used_again(site: Site) -> None:
    detecting = site.start_detecting("back", "b")
    site.detectors["b"].kill()
    site.restart("b")
    finished = detecting.wait()
    assert finished.returncode == 0, finished
    site.assert_complete("back")


def test_a_link_that_is_cut_for_20_s_only_delays(site: Site) -> None:
    detecting = site.start_detecting("cut", "b")
    site.detectors["b"].host.cut()
    pass_seconds(CUT_S, lambda: detecting.alive)
    site.detectors["b"].host.restore()
    finished = detecting.wait()
    assert finished.returncode == 0, finished
    site.assert_complete("cut")


def test_a_link_that_is_cut_for_good_leaves_the_frames_to_the_other_detector(site: Site) -> None:
    detecting = site.start_detecting("half", "a", "b", timeout_s=5)
    site.detectors["a"].host.cut()
    finished = detecting.wait()
    site.detectors["a"].host.restore()
    assert finished.returncode == 0, finished
    site.assert_complete("half")


def test_the_only_link_cut_for_good_is_an_error_and_the_command_can_be_repeated(site: Site) -> None:
    detecting = site.start_detecting("lost", "a", timeout_s=3)
    site.detectors["a"].host.cut()
    failed = detecting.wait(seconds=300)
    site.detectors["a"].host.restore()
    assert failed.returncode == 1
    assert site.detectors["a"].address in failed.stderr
    assert "the same command goes on with the rest" in failed.stderr
    assert not site.has_proposals("lost")
    again = site.detect("lost", "a").wait()
    assert again.returncode == 0, again
    site.assert_complete("lost")


def test_a_detector_that_gets_sigterm_answers_what_it_has_and_ends(site: Site) -> None:
    detecting = site.start_detecting("drained", "a", "b")
    ended = site.detectors["a"].stop(seconds=GRACE_S + 5)
    assert "drains" in ended.stderr
    finished = detecting.wait()
    site.restart("a")
    assert finished.returncode == 0, finished
    assert "Traceback" not in finished.stderr
    site.assert_complete("drained")
