"""A disk that takes no more, here a limit on the size of files: one line, and what was there before stays."""

import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cli.main import main
from stal_data.files import partial_file, write_atomically, write_together
from tests.data.folders import write_small_dataset
from tests.data.published_pickles import annotation_elements, write_pickle

FIXTURES = Path(__file__).parents[1] / "eval" / "fixtures"
SCORED = ("small_untied_pred.csv.gz", "small_untied_gt.csv", "list_action.pbtxt")
Run = Callable[..., str]


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


@pytest.fixture
def fails(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command where files may have so many bytes, which it needs more than; return the line that says so."""

    def run(*words: object, size: int) -> str:
        monkeypatch.setattr(sys, "argv", ["stal-cli", *map(str, words)])
        capsys.readouterr()
        with files_of_at_most(size), pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == 1
        return capsys.readouterr().err.splitlines()[-1]

    return run


@pytest.fixture
def succeeds(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def run(*words: object) -> None:
        monkeypatch.setattr(sys, "argv", ["stal-cli", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == 0

    return run


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_eval_replaces_all_of_a_result_or_nothing(tmp_path: Path, fails: Run, succeeds: Callable[..., None]) -> None:
    output = tmp_path / "out"
    options = zip(("--predictions", "--ground-truth", "--label-map"), SCORED, strict=True)
    command = ["eval", *(word for name, file in options for word in (name, FIXTURES / file)), "--output", output]
    succeeds(*command, "--report")
    before = content(output)
    assert set(before) == {"matches.npz", "metrics.json", "report.html"}
    largest = max(before, key=lambda name: len(before[name]))
    line = fails(*command, "--report", "--capacities", "50", size=len(before[largest]) // 2)
    assert line.startswith(f"Error: '{output}/")
    assert "File too large" in line
    assert content(output) == before


def test_a_data_set_is_rendered_whole_or_not_at_all(tmp_path: Path, fails: Run) -> None:
    out = tmp_path / "new" / "data"
    line = fails(*("dataset", "synth", out, "--seed", 0, "--train-videos", 1, "--test-videos", 0), size=2000)
    assert line.startswith(f"Error: '{tmp_path / 'new'}/")
    assert "_000001.png': File too large." in line
    assert not content(tmp_path)


def test_an_import_is_whole_or_not_at_all(tmp_path: Path, fails: Run) -> None:
    pickle = write_pickle(tmp_path / "train.pkl", annotation_elements())
    command = ["dataset", "import-published", "--split", f"train={pickle}", "--name", "x"]
    line = fails(*command, "--output", tmp_path / "out", size=100)
    assert line.startswith(f"Error: '{tmp_path / 'out'}/")
    assert not content(tmp_path / "out")


def test_what_was_converted_half_goes(tmp_path: Path, fails: Run) -> None:
    write_small_dataset(tmp_path / "data")
    command = ["detector", "convert", tmp_path / "data", "--split", "train", "--val-split", "train"]
    line = fails(*command, "--output", tmp_path / "yolo", size=10)
    assert line.startswith(f"Error: '{tmp_path / 'yolo'}/")
    assert not content(tmp_path / "yolo")


@pytest.mark.parametrize("words", [["--help"], ["doctor", "--help"], ["runs", "list", "--store", "{store}"]])
def test_a_full_standard_output_is_one_line(words: list[str], tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    command = [sys.executable, "-m", "cli.main", *(word.format(store=tmp_path) for word in words)]
    with Path("/dev/full").open("wb") as full:
        run = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert run.returncode == 1
    assert run.stderr.startswith("Error: 'standard output': No space left on device.")
    assert len(run.stderr.splitlines()) == 1


def test_files_that_belong_together_are_replaced_together(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in "ab"]
    write_together(dict.fromkeys(paths, b"old"))
    with files_of_at_most(100), pytest.raises(OSError, match="File too large") as caught:
        write_together({paths[0]: b"new", paths[1]: bytes(101)})
    assert caught.value.filename == str(paths[1])
    assert content(tmp_path) == {"a": b"old", "b": b"old"}


KILLED = """
import os, signal, sys
from pathlib import Path
from stal_data.files import partial_file

with partial_file(Path(sys.argv[1])) as partial:
    partial.write_bytes(b"half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_killed_writers_left_goes_with_the_next_one_and_what_others_write_stays(tmp_path: Path) -> None:
    path, other = tmp_path / "a[0].json", tmp_path / "other.json"
    elsewhere = tmp_path / f".a.another-host.1.{'0' * 32}.partial"
    elsewhere.touch()
    run = subprocess.run([sys.executable, "-c", KILLED, str(other)], check=False)
    assert run.returncode == -signal.SIGKILL
    assert len(list(tmp_path.iterdir())) == 2
    with partial_file(path) as alive:
        assert set(tmp_path.iterdir()) == {alive, elsewhere}
        code = "import pathlib, sys, stal_data.files as f; f.write_atomically(pathlib.Path(sys.argv[1]), '{}')"
        subprocess.run([sys.executable, "-c", code, str(path)], check=True)
        assert alive.exists()
    assert content(tmp_path) == {"a[0].json": b"{}", elsewhere.name: b""}


def test_the_longest_name_has_room_for_its_partial_file(tmp_path: Path) -> None:
    write_atomically(tmp_path / ("ü" * 127), "x")
    assert len(list(tmp_path.iterdir())) == 1
