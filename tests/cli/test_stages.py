"""Stages of a workflow: made again when what went in has changed, and nothing is removed that they did not make."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from cli.workflow.demo.workflow import Folders
from cli.workflow.fingerprints import ABSENT, fingerprint
from cli.workflow.stage_progress import StageProgress
from cli.workflow.stages import Product, StageError, Stages
from stal_data.errors import ConflictError


class Workflow:
    """`first` copies source.txt into a folder; `second` copies that into a file."""

    def __init__(self, root: Path) -> None:
        self.root, self.source = root / "out", root / "source.txt"
        self.folder, self.file = self.root / "first", self.root / "second.txt"
        self.made: list[str] = []
        self.root.mkdir()
        self.source.write_text("one")

    def run(self, *, option: str = "", fresh: bool = False, fail: bool = False) -> list[str]:
        """Return the stages that had to be made."""
        self.made.clear()
        stages = Stages(self.root, fresh=fresh)
        inputs = {"source": stages.digest(self.source)}
        stages.make("first", self._first(fail), asked=[option], inputs=inputs, products=[Product(self.folder)])
        inputs = {"first": stages.digest(self.folder)}
        stages.make("second", self._second, asked=[], inputs=inputs, products=[Product(self.file)])
        return list(self.made)

    def _first(self, fail: bool) -> Callable[[], None]:
        def work() -> None:
            self.made.append("first")
            self.folder.mkdir()
            (self.folder / "copy").write_text(self.source.read_text())
            if fail:
                raise StageError("failed")

        return work

    def _second(self) -> None:
        self.made.append("second")
        self.file.write_text((self.folder / "copy").read_text())


@pytest.fixture
def workflow(tmp_path: Path) -> Workflow:
    made = Workflow(tmp_path)
    assert made.run() == ["first", "second"]
    return made


def test_nothing_is_made_again_for_a_new_time_or_other_files_beside(workflow: Workflow) -> None:
    workflow.source.write_text("one")
    (workflow.root / "notes.txt").write_text("mine")
    assert workflow.run() == []


def test_other_content_under_the_same_name_makes_all_that_depends_on_it_again(workflow: Workflow) -> None:
    workflow.source.write_text("two")
    assert workflow.run() == ["first", "second"]
    assert workflow.file.read_text() == "two"


def test_an_option_that_changes_nothing_makes_nothing_after_its_stage_again(workflow: Workflow) -> None:
    assert workflow.run(option="--other") == ["first"]


def test_fresh_makes_every_stage_again(workflow: Workflow) -> None:
    assert workflow.run(fresh=True) == ["first", "second"]


def test_a_product_that_is_gone_is_made_again(workflow: Workflow) -> None:
    workflow.file.unlink()
    assert workflow.run() == ["second"]


def test_what_an_interrupted_stage_left_is_made_again(workflow: Workflow) -> None:
    workflow.source.write_text("two")
    with pytest.raises(StageError):
        workflow.run(fail=True)
    assert workflow.run() == ["first", "second"]
    assert workflow.file.read_text() == "two"


@pytest.mark.parametrize("name", ["copy", "mine.txt", ".hidden", "sub/mine.txt"])
def test_a_folder_with_files_of_the_users_own_is_refused_and_left_as_it_is(workflow: Workflow, name: str) -> None:
    own = workflow.folder / name
    own.parent.mkdir(exist_ok=True)
    own.write_text("my own work")
    workflow.source.write_text("two")
    with pytest.raises(ConflictError, match=r"first' is to be made again, but is not as stage first left it.*--output"):
        workflow.run()
    assert own.read_text() == "my own work"
    assert (workflow.folder / "copy").exists()


@pytest.mark.parametrize("name", ["notes.md", "checkpoints/notes.md", "checkpoints/copy.safetensors", ".hidden", "a/b"])
@pytest.mark.parametrize("interrupted", [False, True])
def test_a_run_with_files_of_the_users_own_is_refused_and_left_as_it_is(
    tmp_path: Path, name: str, interrupted: bool
) -> None:
    run = Folders(tmp_path).run("linear", 0)
    files = ["recipe.yaml", "checkpoints/latest.safetensors", "events.jsonl", "state.json", ".state.json.x.partial"]
    files += ["job/node_0.log", "job/elastic_0/a/b.log", "tensorboard/events.out.tfevents.1", "slowfast.safetensors"]

    def train(fail: bool = False) -> None:
        for file in files:
            (run.path / file).parent.mkdir(parents=True, exist_ok=True)
            (run.path / file).open("x").close()
        if fail:
            raise StageError("failed")

    def make(work: Callable[[], None]) -> None:
        Stages(tmp_path, fresh=True).make("train", work, asked=[], inputs={}, products=[run])

    for _ in range(2):
        make(train)
    if interrupted:
        with pytest.raises(StageError):
            make(lambda: train(fail=True))
    own = run.path / name
    own.parent.mkdir(exist_ok=True)
    own.write_text("my own work")
    with pytest.raises(ConflictError, match=r"linear-seed0' is to be made again, but is not as stage train left it"):
        make(train)
    assert own.read_text() == "my own work"
    assert all((run.path / file).exists() for file in files)


def test_a_removal_that_was_interrupted_goes_on(workflow: Workflow, monkeypatch: pytest.MonkeyPatch) -> None:
    workflow.source.write_text("two")

    def interrupted(path: Path) -> None:
        (path / "copy").unlink()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", interrupted)
        with pytest.raises(KeyboardInterrupt):
            workflow.run()
    assert workflow.run() == ["first", "second"]
    assert workflow.file.read_text() == "two"


def test_what_was_there_before_the_first_run_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    workflow = Workflow(tmp_path)
    workflow.folder.mkdir()
    with pytest.raises(ConflictError, match=r"is not as stage first left it"):
        workflow.run()
    assert workflow.folder.exists()
    assert workflow.made == []


def test_what_another_stage_of_the_folder_left_is_made_again_but_nothing_that_was_changed(workflow: Workflow) -> None:
    def other() -> None:
        Stages(workflow.root).make(
            "other", lambda: workflow.file.write_text("two"), asked=[], inputs={}, products=[Product(workflow.file)]
        )

    other()
    assert workflow.file.read_text() == "two"
    assert workflow.run() == ["second"]
    workflow.file.write_text("mine")
    with pytest.raises(ConflictError, match=r"is not as stage other left it"):
        other()
    assert workflow.file.read_text() == "mine"


def test_a_kept_product_is_never_removed(tmp_path: Path) -> None:
    half = tmp_path / "half"
    half.write_text("rows so far")
    for word in ("--version", "--help"):
        Stages(tmp_path).run("fill", word, inputs={}, products=[Product(half, kept=True)])
    assert half.read_text() == "rows so far"


def test_a_failure_shows_the_end_of_the_log_and_is_run_again(tmp_path: Path) -> None:
    for _ in range(2):
        with pytest.raises(
            StageError, match=r"(?s)stage broken failed with exit code 2.*No such command 'x'.*logs/broken.log"
        ):
            Stages(tmp_path).run("broken", "x", inputs={}, products=[])


@pytest.mark.parametrize("here", [False, True], ids=["in a child", "here"])
def test_a_command_fails_alike_here_and_in_a_child(
    here: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stages = Stages(tmp_path / "out")

    def check(*words: object) -> None:
        stages.run("check", *map(str, words), inputs={}, products=[], here=here)

    check("dataset", "synth", "--help")
    assert "Render a synthetic data set" in stages.log("check").read_text()
    with pytest.raises(StageError, match="There is no data set at") as missing:
        check("dataset", "info", tmp_path)
    assert "run the same command again to go on from this stage" in str(missing.value)
    with pytest.raises(StageError, match="No such option"):
        check("dataset", "synth", "--no-such")
    assert "Render" not in capsys.readouterr().out


def test_a_stage_that_was_done_does_not_ask_how_its_service_is_reached(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for connection in (lambda: ["--help"], lambda: pytest.fail("nothing is to be run")):
        Stages(tmp_path).run("call", "cache", "ls", connection=connection, inputs={}, products=[])
    assert "done before" in capsys.readouterr().out


def test_a_fingerprint_tells_names_contents_links_and_empty_folders_apart(tmp_path: Path) -> None:
    found = {fingerprint(tmp_path / "tree")}
    (tmp_path / "tree" / "a").mkdir(parents=True)
    steps: list[Callable[[Path], object]] = [
        lambda tree: None,
        lambda tree: (tree / "b").write_text("x"),
        lambda tree: (tree / "b").write_text("y"),
        lambda tree: (tree / "b").rename(tree / "a" / "b"),
        lambda tree: (tree / "c").symlink_to("a"),
        lambda tree: (tree / ".d").write_text(""),
    ]
    for step in steps:
        step(tmp_path / "tree")
        found.add(fingerprint(tmp_path / "tree"))
    assert len(found) == len(steps) + 1
    assert fingerprint(tmp_path / "tree", ("nothing*",)) == ABSENT
    assert fingerprint(tmp_path / "tree", ("a",)) == fingerprint(tmp_path / "tree", ("[a]", "a/b"))


def test_a_long_stage_repeats_the_latest_count_of_its_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("cli.workflow.stage_progress.LINE_EVERY_S", 0)
    log = tmp_path / "detect.log"
    log.write_text("$ stal-cli detect 1/2\n")
    progress = StageProgress("detect", log)
    for text in ("", "detecting: 1/9 key frames\nNote: one\n", "detecting: 5/9 key frames, 3 s left\n"):
        with log.open("a") as file:
            file.write(text)
        progress.look()
        progress.look()
    assert capsys.readouterr().err == (
        "  detect: detecting: 1/9 key frames\n  detect: detecting: 5/9 key frames, 3 s left\n"
    )
