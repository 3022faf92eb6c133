"""The end of a log, as errors show it."""

from pathlib import Path

from stal_data.log_tail import log_tail


def test_the_last_lines_are_shown_and_no_more(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("".join(f"line {number}\n" for number in range(10_000)))
    assert log_tail(log).splitlines() == [f"    line {number}" for number in range(9_980, 10_000)]


def test_a_line_without_end_is_cut_and_bytes_that_are_no_text_are_shown(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(b"x" * 100_000 + b"\xff")
    assert len(log_tail(tmp_path / "log")) == 4 + 16384


def test_nothing_to_show(tmp_path: Path) -> None:
    assert log_tail(tmp_path / "absent") == "    (no output)"
    (tmp_path / "empty").touch()
    assert log_tail(tmp_path / "empty") == "    (no output)"
