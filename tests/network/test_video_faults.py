"""A detector and a recognizer die in the middle of a video: the others go on, with the results of one machine."""

import json
import re
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.detector.samples import write_dataset
from tests.network import clear_video
from tests.network.hosts import Host, Network, Program, until
from tests.network.services import Service, copy_to, credentials, start_detector, start_recognizer

pytestmark = [pytest.mark.network, pytest.mark.timeout(600)]

RECOGNIZER_PORT = 50061
"""Not the default port: there the recognizers of the other tests may still listen."""
SECONDS = 60
"""Of the video, a key frame each. A client is 36 key frames ahead of the answers at most."""
KEY_FRAMES_MS = list(range(0, 1000 * SECONDS, 1000))
LABELS = ("l1", "l2")
BACKBONE = ("--slowfast", "random:0", "--slowfast-preset", "tiny")
RUNS = {"plain": (), "seeing": ("--set", "head={kind: relation, channels: 8}", "--set", "data.neighbours=1")}
"""`seeing` looks at the key frames before and after, which the next recognizer gets again."""
TOLERANCE = 1e-4
"""Of boxes and scores, which the live output has with four digits."""


@dataclass(kw_only=True)
class Site:
    """A laptop with a video, and services."""

    laptop: Host
    video: Path
    services: dict[str, Service]
    expected: dict[str, Path]
    """Predictions of each run by a machine that does everything itself."""

    def start(self, command: str, *options: object) -> Program:
        """infer or watch."""
        addresses = {
            kind: ",".join(self.services[f"{kind}-{key}"].address for key in "ab")
            for kind in ("detector", "recognizer")
        }
        where = [word for kind, found in addresses.items() for word in (f"--{kind}", found)]
        return self.laptop.start(command, self.video, *where, *credentials(self.laptop), *options)

    def start_those_that_died(self) -> None:
        for name, service in self.services.items():
            if not service.program.alive:
                self.services[name] = start(service.host)

    def received_bytes(self) -> dict[str, int]:
        return {name: service.host.received_bytes() for name, service in self.services.items()}

    def recognizers(self, before: dict[str, int]) -> tuple[Service, Service]:
        """The one that has got the video since then, and the other."""
        now = self.received_bytes()
        names = sorted(("recognizer-a", "recognizer-b"), key=lambda name: before[name] - now[name])
        return self.services[names[0]], self.services[names[1]]


def start(host: Host) -> Service:
    if host.name.startswith("detector"):
        return start_detector(host, "--confidence", clear_video.CONFIDENCE)
    return start_recognizer(host, host.disk / "video-store", *BACKBONE, "--device", "cpu", port=RECOGNIZER_PORT)


@pytest.fixture(scope="module")
def site(network: Network) -> Iterator[Site]:
    alone, laptop = network["alone"], network["laptop"]
    store, video, weights = alone.disk / "video-store", alone.disk / "street.mp4", alone.disk / "tiny.pt"
    made = alone.start_program(sys.executable, "-m", "tests.network.clear_video", video, weights, SECONDS).wait()
    assert made.returncode == 0, made
    copy_to(video, laptop)

    data = write_dataset(alone.disk / "to-train-on", videos=2, seconds=3)
    alone.run("precompute", data, "--split", "train", "--store", store, *BACKBONE)
    rate = ("--set", "optimizer.learning_rate=0.05", "--set", "training.epochs=4")
    for run, changes in RUNS.items():
        dataset = ("--set", "data.dataset=small", "--set", "validation.split=null")
        alone.run("train", "linear", "--store", store, "--run-id", run, *dataset, *rate, *changes)
    copy_to(store, network["recognizer-a"], network["recognizer-b"])

    detector = ("--detector-weights", weights, "--image-size", "90x160", "--confidence", clear_video.CONFIDENCE)
    for run in RUNS:
        whole = ("--store", store, "--run", run, *BACKBONE, *detector, "--no-video")
        alone.run("infer", video, *whole, "--output", alone.disk / run, seconds=300)
    expected = {run: alone.disk / run / "predictions.csv" for run in RUNS}
    for path in expected.values():
        scores = np.concatenate(list(key_frames(path).values()))[:, 4:]
        assert (scores.std(axis=0) > 100 * TOLERANCE).all(), scores  # else any scores would be the expected ones

    names = [f"{kind}-{key}" for kind in ("detector", "recognizer") for key in "ab"]
    services = {name: start(network[name]) for name in names}
    yield Site(laptop=laptop, video=laptop.disk / video.name, services=services, expected=expected)
    for service in services.values():
        if service.program.alive:
            service.stop(seconds=30)


def key_frames(predictions: Path) -> dict[int, NDArray[np.float64]]:
    """Time in ms of each key frame in its order; box and scores of both labels of each person in it, [N, 4 + 2]."""
    first_N7, second_N7 = np.loadtxt(predictions, delimiter=",", usecols=range(1, 8)).reshape(-1, 2, 7).swapaxes(0, 1)
    assert {tuple(pair) for pair in zip(first_N7[:, 5], second_N7[:, 5], strict=True)} == {(1, 2)}
    times_N = np.round(1000 * first_N7[:, 0])
    people_N6 = np.column_stack([first_N7[:, [1, 2, 3, 4, 6]], second_N7[:, 6]])
    assert (np.diff(times_N) >= 0).all()
    return {int(time_ms): people_N6[times_N == time_ms] for time_ms in np.unique(times_N)}


def assert_as_expected(found: dict[int, NDArray[np.float64]], expected: dict[int, NDArray[np.float64]]) -> None:
    for time_ms, people_N6 in found.items():
        np.testing.assert_allclose(people_N6, expected[time_ms], rtol=0, atol=TOLERANCE, err_msg=f"at {time_ms} ms")


def kept(unfinished: Path) -> tuple[list[int], list[int]]:
    """Times of the key frames whose people, and of those whose scores, the laptop has so far."""
    lines = unfinished.read_text().splitlines(keepends=True) if unfinished.exists() else []
    items = [json.loads(line) for line in lines if line.endswith("\n")]
    people, scored = ([item["time_ms"] for item in items if part in item] for part in ("confidence", "scores"))
    return people, scored


def test_infer_goes_on_without_one_of_two_detectors_and_recognizers(site: Site) -> None:
    site.start_those_that_died()
    detector, before = site.services["detector-a"], site.received_bytes()
    output = site.laptop.disk / "out"
    unfinished = output / "videos" / "street" / "recognize.unfinished"
    site.laptop.limit_rate("1mbit")
    try:
        infer = site.start("infer", "--run", "seeing", "--no-video", "--output", output)
        until(lambda: len(kept(unfinished)[1]) >= 3 or not infer.alive, "three key frames are scored", seconds=120)
        detector.program.send(signal.SIGSTOP)

        def held_by_detector() -> bool:
            """The people of a key frame lack, and those of later ones do not, when all before it is scored."""
            people, scored = kept(unfinished)
            lacking = next(time_ms for time_ms in KEY_FRAMES_MS if time_ms not in people)
            return lacking < max(people) and len(scored) == KEY_FRAMES_MS.index(lacking) - 2

        until(lambda: held_by_detector() or not infer.alive, "a frozen detector holds frames", seconds=240)
        detector.kill()
        killed, other = site.recognizers(before)
        killed.kill()
        assert 3 <= len(kept(unfinished)[1]) < SECONDS - 5
        finished = infer.wait(seconds=300)
    finally:
        site.laptop.limit_rate(None)
    assert finished.returncode == 0, finished
    assert "unanswered frames are sent again" in finished.stderr
    assert f"going on with the one at {other.address}" in finished.stderr
    found, expected = (key_frames(path) for path in (output / "predictions.csv", site.expected["seeing"]))
    assert list(found) == list(expected) == KEY_FRAMES_MS
    assert_as_expected(found, expected)


def test_watch_goes_on_without_one_of_two_detectors_and_recognizers(site: Site) -> None:
    site.start_those_that_died()
    before = site.received_bytes()
    site.laptop.limit_rate("400kbit")  # the video needs 600
    watch = site.start("watch", "--run", "plain", "--min-score", 0)

    def records() -> list[dict[str, Any]]:
        return [json.loads(line) for line in watch.stdout.splitlines(keepends=True) if line.endswith("\n")]

    try:
        until(lambda: len(records()) >= 5 or not watch.alive, "five key frames are scored")
        site.services["detector-a"].kill()
        killed, other = site.recognizers(before)
        killed.kill()
        num_before = len(records())
        finished = watch.wait(seconds=300)
    finally:
        site.laptop.limit_rate(None)
    assert finished.returncode == 0, finished
    assert f"going on with the one at {other.address}" in finished.stderr
    times_ms = [record["source_ms"] for record in records()]
    assert times_ms == sorted(set(times_ms))
    assert set(times_ms) <= set(KEY_FRAMES_MS)
    assert 5 <= num_before < len(times_ms)
    # The last line has all; those before are of a minute each.
    scored, dropped = re.findall(r"(\d+) key frames scored.* (\d+) dropped in all", finished.stderr)[-1]
    assert len(times_ms) == int(scored) == SECONDS - int(dropped) < SECONDS
    expected = key_frames(site.expected["plain"])
    found = {
        record["source_ms"]: np.array([[*item["box"], *map(item["actions"].get, LABELS)] for item in record["people"]])
        for record in records()
    }
    assert_as_expected(found, expected)
