"""`stal-cli dataset` as a user runs it: exit codes, what is printed and what is written."""

import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from cli.commands.dataset import dataset
from stal_data.dataset import Dataset
from stal_data.errors import InputError
from tests.data.folders import write_small_dataset
from tests.data.videos import constant, write_video


def _run(*words: str | Path) -> Result:
    return CliRunner().invoke(dataset, [str(word) for word in words])


@pytest.mark.parametrize("style", ["a", "b"])
def test_a_rendered_data_set_passes_validation_and_its_ground_truth_is_the_scoring_file(
    tmp_path: Path, style: str
) -> None:
    out = tmp_path / "data"
    result = _run("synth", out, "--seed", "3", "--train-videos", "1", "--test-videos", "1", "--style", style)
    assert result.exit_code == 0, result.output
    result = _run("validate", out, "--decode")
    assert result.exit_code == 0, result.output
    assert "0 errors" in result.output or "No problem found." in result.output
    for split in ("train", "test"):
        written = tmp_path / f"{split}.csv"
        assert _run("ground-truth", out, "--split", split, "--output", written).exit_code == 0
        expected = (out / "annotations" / f"{split}_gt.csv").read_text().splitlines()
        assert sorted(written.read_text().splitlines()) == sorted(expected)


def test_errors_are_listed_up_to_a_limit_and_exit_with_1(tmp_path: Path) -> None:
    root = write_small_dataset(tmp_path)
    (root / "test.csv").write_text((root / "test.csv").read_text().replace(",0.2,", ",-0.2,"))
    result = _run("validate", root, "--split", "test", "--limit", "2")
    assert result.exit_code == 1
    assert result.stdout.count("test.csv:") == 3  # two of six boxes, and that no key frame is left
    assert "... and 4 more of this kind [box]; --limit 0 shows all." in result.stdout
    assert "7 errors, 0 warnings." in result.stdout
    assert _run("validate", root, "--split", "test", "--limit", "0").stdout.count("test.csv:") == 7
    assert _run("validate", root, "--split", "train").exit_code == 0


def test_a_data_set_is_described(tmp_path: Path) -> None:
    result = _run("info", write_small_dataset(tmp_path))
    assert result.exit_code == 0
    assert "Split train: 1 video, 2 key frames (0 without people, 0 excluded), 4 boxes, 6 actions" in result.stdout
    assert "80x48 pixels, 25 frames a second" in result.stdout
    assert result.stdout.splitlines()[-1].split() == ["3", "wave", "2", "2"]


def test_videos_become_a_data_set_wherever_the_command_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_video(tmp_path / "street.mp4", constant(30, 75))
    monkeypatch.chdir(tmp_path)
    result = _run("from-videos", "street.mp4", "--output", "own", "--name", "own")
    assert result.exit_code == 0, result.output
    assert "1 video, 3 key frames in split 'all'" in result.stdout
    monkeypatch.chdir("/")
    split = Dataset.open(tmp_path / "own").split("all")
    assert split.media.read("street", [1]).shape == (1, 48, 80, 3)
    result = _run("ground-truth", tmp_path / "own", "--split", "all", "--output", tmp_path / "gt.csv")
    assert isinstance(result.exception, InputError)
    assert "has no annotations" in str(result.exception)
    assert not (tmp_path / "gt.csv").exists()


def test_what_from_videos_leaves_out_is_named(tmp_path: Path) -> None:
    (tmp_path / "mix" / "more").mkdir(parents=True)
    write_video(tmp_path / "mix" / "a.asf", constant(25, 30), codec="wmv2", rate=25)
    (tmp_path / "mix" / "b.mp4").symlink_to("nowhere.mp4")
    result = _run("from-videos", tmp_path / "mix", "--output", tmp_path / "own", "--name", "own")
    assert result.exit_code == 0, result.output
    assert "b.mp4 (a broken link), more (a folder, which is not looked into). Name what is a video" in result.stderr
    assert "1 video, 2 key frames in split 'all'" in result.stdout


def test_a_mistake_is_one_line_and_exit_code_1(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "cli.main", "dataset", "validate", str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.returncode == 1
    assert done.stderr.startswith("Error: There is no data set at")
    assert len(done.stderr.splitlines()) == 1
