"""The demo end to end at its tiny size: every command, both services, real processes."""

import json
import os
import re
import subprocess
from pathlib import Path

import pytest
from PIL import Image

from tests.hostile import STAL_CLI, hostile_folder


def _demo(folder: Path) -> "subprocess.CompletedProcess[str]":
    command = [STAL_CLI, "demo", "--tiny", "--output", str(folder)]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    return subprocess.run(
        command, cwd=hostile_folder(folder.parent), env=environment, capture_output=True, text=True, umask=0o002
    )


@pytest.fixture(scope="module")
def demo_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo") / "demo-out"
    result = _demo(folder)
    assert result.returncode == 0, result.stdout + result.stderr
    return folder


@pytest.mark.timeout(600)
def test_summary_holds_every_figure_and_every_stage(demo_folder: Path) -> None:
    summary = json.loads((demo_folder / "summary.json").read_text())
    for boxes in ("ground_truth_boxes", "detected_boxes"):
        for head in ("relation", "relation-means", "acar", "acar-published", "linear"):
            assert 0.0 <= summary[boxes][head]["mAP"] <= 1.0
            ahead = summary[boxes][head].get("ahead_of_linear")
            assert ahead is None if head == "linear" else ahead["low"] <= ahead["mAP"] <= ahead["high"]
    assert summary["ground_truth_boxes"]["acar"]["mAP"] > 0.0
    assert len(summary["interaction_classes"]) >= 4
    stages = {"synthesize", "train_detector", "train_slowfast", "train_vit", "detect", "precompute_train"}
    assert stages <= set(summary["wall_s"])
    assert summary["wall_s"]["total"] > 0


def test_a_group_may_go_on_with_everything(demo_folder: Path) -> None:
    """As the umask of the demo said; all kinds of files are there."""
    modes = {path: path.stat().st_mode & 0o777 for path in [demo_folder, *demo_folder.rglob("*")]}
    assert {path for path, mode in modes.items() if mode != (0o775 if path.is_dir() else 0o664)} == set()


def test_the_page_shows_pictures_that_exist(demo_folder: Path) -> None:
    page = (demo_folder / "index.html").read_text()
    pictures = sorted((demo_folder / "pictures").glob("*.png"))
    assert {"capacity.png", "per_class.png"} < {picture.name for picture in pictures}
    assert len(pictures) > 2
    for picture in pictures:
        assert f"pictures/{picture.name}" in page
        Image.open(picture).verify()


def test_the_page_links_to_the_report_of_every_evaluation(demo_folder: Path) -> None:
    links = re.findall(r'<a href="(eval/[^"]+)">', (demo_folder / "index.html").read_text())
    assert len(links) == 10
    for link in links:
        assert "<image href=" in (demo_folder / link).read_text()  # with key frames


def test_a_second_run_does_nothing_again(demo_folder: Path) -> None:
    """Nor does it start a service."""
    kept = [path for name in ("store", "logs") for path in (demo_folder / name).rglob("*") if path.is_file()]
    before = {path: path.stat().st_mtime_ns for path in kept}
    assert {"serve-detector.log", "serve-recognizer.log"} <= {path.name for path in kept}
    result = _demo(demo_folder)
    assert result.returncode == 0, result.stdout + result.stderr
    assert (
        result.stdout.count("done before") == len(json.loads((demo_folder / "summary.json").read_text())["wall_s"]) - 1
    )
    assert {path: path.stat().st_mtime_ns for path in kept} == before
