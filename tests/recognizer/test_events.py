"""The events of a run as they are written and read."""

from pathlib import Path

from recognizer_svc.runs.events import EventReader, EventWriter


def test_a_line_cut_off_by_a_crash_is_skipped_and_nothing_after_it(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    with EventWriter(path) as events:
        events.write("log", message="one")
    with path.open("ab") as file:
        file.write(b'{"seq": 2, "time": 1.0, "ty')
    reader = EventReader(path)
    assert [event.seq for event in reader.read()[0]] == [1]
    with EventWriter(path) as events:
        events.write("log", message="two")
    assert [(event.seq, event.values["message"]) for event in reader.read()[0]] == [(2, "two")]
