"""docs/tutorial.md from its first command to its last, with fewer videos and steps."""

import csv
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.detector.samples import ROOT, start

pytestmark = pytest.mark.slow
PAGE = (ROOT / "docs" / "tutorial.md").read_text()
SMALLER = {
    "scripts/": f"{ROOT}/scripts/",
    "detector_svc/": f"{ROOT}/detector_svc/",
    "--videos 40": "--videos 20",
    "--kind slowfast --steps 200": "--kind slowfast --preset tiny --steps 2",
    "--track --output out": "--track --min-score 0 --output out",
}


def run(script: str, folder: Path) -> str:
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{script}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def test_every_command_of_the_page_works(tmp_path: Path) -> None:
    script = "".join(re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL))
    commands = re.findall(r"^\s*(?:stal-cli|python)\b", script, re.MULTILINE)
    assert len(commands) - 1 < 15, "few enough for an afternoon, without the script that makes the material"
    for text, smaller in SMALLER.items():
        assert text in script, text
        script = script.replace(text, smaller)
    before, serve, after = re.split(r"^(stal-cli serve detector .*) &\n", script, flags=re.MULTILINE)
    said = run(before, tmp_path)
    assert "20 videos, 60 key frames" in said
    assert serve.split()[3:] == ["--weights", "person.pt", "--overlap", "0.5", "--port", "50051"]
    with start("--weights", tmp_path / "person.pt", "--overlap", 0.5, "--device", "cpu", "--port", 0) as service:
        assert service.stdout is not None
        address = service.stdout.readline().split()[-1]
        run(after.replace("127.0.0.1:50051", address).replace("kill %1", f"kill {service.pid}"), tmp_path)
    assert (tmp_path / "eval" / "report.html").is_file()
    assert (tmp_path / "out" / "videos" / "new" / "new-annotated.mp4").stat().st_size > 0
    with (tmp_path / "out" / "actions.csv").open(newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["video", "person", "action", "start_s", "end_s", "score"]
    assert {row[0] for row in rows} <= {"new"}, "a detector of a few steps may find nobody to follow"
