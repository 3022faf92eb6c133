"""Whatever damages a file of a store is named, or changes nothing."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults import inject

SEED, SAMPLE, SOAK = 7, len(inject.KINDS), 1000


def test_a_sample_of_faults(tmp_path: Path) -> None:
    root = tmp_path / "whole"
    inject.build(root)
    outcomes = list(inject.inject(root, SEED, SAMPLE))
    assert {outcome.fault.kind for outcome in outcomes} == set(inject.KINDS)
    assert [outcome for outcome in outcomes if outcome.wrong] == []
    assert sum(bool(outcome.noticed) for outcome in outcomes) > SAMPLE // 2


@pytest.mark.soak
@pytest.mark.timeout(7200)
def test_a_thousand_faults() -> None:
    command = [sys.executable, "-m", "tests.faults.inject", str(SEED), str(SOAK)]
    root = Path(inject.__file__).parents[2]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True, timeout=7000)
    print(done.stdout)
    rows = [line.split("\t") for line in done.stdout.splitlines()]
    assert all(len(row) == 3 and row[1] in ("named", "same result") for row in rows), done.stdout
    assert sum(int(row[2]) for row in rows) == SOAK
