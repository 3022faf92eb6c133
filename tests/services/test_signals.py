"""SIGTERM and SIGINT to real service processes that do not get on."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.services.recognizer_process import ENVIRONMENT, ROOT

SIGNALS = (signal.SIGTERM, signal.SIGINT)
TIMEOUT_S = 60


@contextmanager
def hanging(step: str) -> Iterator["subprocess.Popen[str]"]:
    command = [sys.executable, "-m", "tests.services.hanging_service", step]
    with subprocess.Popen(command, cwd=ROOT, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def wait_for(process: "subprocess.Popen[str]", text: str) -> None:
    assert process.stdout is not None
    assert any(text in line for line in process.stdout)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_while_the_service_loads_ends_it(number: signal.Signals) -> None:
    with hanging("load") as process:
        wait_for(process, "loading")
        process.send_signal(number)
        assert process.wait(TIMEOUT_S) == 0


@pytest.mark.parametrize("second", SIGNALS)
def test_a_second_signal_kills(second: signal.Signals) -> None:
    with hanging("drain") as process:
        wait_for(process, "ready on")
        process.send_signal(signal.SIGTERM)
        wait_for(process, "draining")
        process.send_signal(second)
        assert process.wait(TIMEOUT_S) == -second
