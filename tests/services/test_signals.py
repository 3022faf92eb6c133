"""SIGTERM and SIGINT to real service processes that do not get on."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.services.recognizer_process import ENVIRONMENT, ROOT

SIGNALS = (signal.SIGTERM, signal.SIGINT)
TIMEOUT_S = 120


@contextmanager
def hanging(*arguments: str, errors: int | None = None) -> Iterator["subprocess.Popen[str]"]:
    command = [sys.executable, "-m", "tests.services.hanging_service", *arguments]
    with subprocess.Popen(
        command, cwd=ROOT, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=errors, text=True
    ) as process:
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


@pytest.mark.parametrize("step", ["work", "drain", "stop"])
def test_a_service_that_hangs_is_gone_soon_after_the_grace_time(step: str) -> None:
    with hanging(step, "1", errors=subprocess.PIPE) as process:
        wait_for(process, "ready on")
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=TIMEOUT_S)
        assert process.returncode == 0, errors
        assert "not stopped within 1.5 s; leaving as it is" in errors
        assert "model_0" in errors or step != "work"


@pytest.mark.parametrize("second", SIGNALS)
def test_a_second_signal_kills(second: signal.Signals) -> None:
    with hanging("drain") as process:
        wait_for(process, "ready on")
        process.send_signal(signal.SIGTERM)
        wait_for(process, "draining")
        process.send_signal(second)
        assert process.wait(TIMEOUT_S) == -second
