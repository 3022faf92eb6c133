"""Stages of a workflow: skipped when done, run again when their command or anything before them changed."""

from pathlib import Path

import pytest

from cli.stages import StageError, Stages


def _info(root: Path, words: tuple[str, ...] = ("--version",)) -> Stages:
    stages = Stages(root)
    stages.run("first", *words, produces=root / "first.out")
    stages.run("second", "--help", produces=root / "second.out")
    return stages


def test_finished_stages_are_skipped_and_keep_their_time(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = _info(tmp_path).wall_s
    capsys.readouterr()
    assert _info(tmp_path).wall_s == before
    assert capsys.readouterr().out.count("done before") == 2


def test_a_changed_command_runs_its_stage_and_all_after_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _info(tmp_path)
    (tmp_path / "second.out").write_text("made from the old first stage")
    capsys.readouterr()
    _info(tmp_path, ("dataset", "--help"))
    assert "done before" not in capsys.readouterr().out
    assert not (tmp_path / "second.out").exists()


def test_a_failure_shows_the_end_of_the_log_and_is_run_again(tmp_path: Path) -> None:
    stages = Stages(tmp_path)
    with pytest.raises(
        StageError, match=r"(?s)stage broken failed with exit code 2.*No such command 'x'.*logs/broken.log"
    ):
        stages.run("broken", "x", produces=tmp_path / "x")
    with pytest.raises(StageError):
        Stages(tmp_path).run("broken", "x", produces=tmp_path / "x")


def test_an_interrupted_resumable_stage_keeps_what_it_had(tmp_path: Path) -> None:
    half = tmp_path / "half"
    half.write_text("rows so far")
    Stages(tmp_path).run("fill", "--version", produces=half, resumable=True)
    assert half.read_text() == "rows so far"


def test_an_address_on_a_new_port_is_the_same_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for port in ("1234", "4321"):
        Stages(tmp_path).run("call", "--version", f"127.0.0.1:{port}", produces=tmp_path / "x")
    assert "done before" in capsys.readouterr().out


def test_another_way_to_reach_a_service_is_the_same_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for option in ("--help", "--version"):
        Stages(tmp_path).run("call", connection=(option,), produces=tmp_path / "x")
    assert "done before" in capsys.readouterr().out
    assert (tmp_path / "logs" / "call.log").read_text().startswith("$ stal-cli --help\n")
