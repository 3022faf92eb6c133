"""Tracks of CVAT for video: where people are between drawn boxes, across jobs, and what is an action."""

import json
from pathlib import Path

import numpy as np

from stal_data.formats.sources import Reading
from tests.data.imported import import_into, rows, run_dataset
from tests.data.tool_files import (
    ACTIONS,
    CVAT_TRACK,
    HEIGHT,
    SCENE,
    WIDTH,
    WRITERS,
    write_cvat_tracks,
)


def test_written_for_cvat_people_move_between_key_frames_and_are_gone_at_the_first_without_them(
    tmp_path: Path, videos: Path
) -> None:
    first = import_into(tmp_path / "first", [WRITERS["ava"](tmp_path, SCENE)], videos)
    done = run_dataset("convert", first.root, "--split", "all", "--to", "cvat", "--output", tmp_path / "written")
    assert done.exit_code == 0, done.output
    finer = import_into(tmp_path / "second", [tmp_path / "written" / "street.xml"], videos, every_ms=500)
    found = {row[:3]: row[3][0] for row in rows(finer) if len(row) > 2}
    assert found["street", 500, 1] == np.float32(15.2 / WIDTH)  # at frame 13
    assert ("street", 500, 2) in found
    assert ("street", 1000, 2) not in found


def _box(frame: int, x1: float, *, outside: int = 0, keyframe: int = 1, actions: tuple[str, ...] = ("walk",)) -> str:
    ticks = "".join(f'<attribute name="{name}">{str(name in actions).lower()}</attribute>' for name in ACTIONS)
    return (
        f'<box frame="{frame}" outside="{outside}" occluded="0" keyframe="{keyframe}" xtl="{x1}" ytl="8" '
        f'xbr="{x1 + 8}" ybr="40" z_order="0">{ticks}</box>'
    )


def test_a_track_moves_between_its_key_frames_and_ends_where_the_person_is_outside(
    tmp_path: Path, videos: Path
) -> None:
    boxes = _box(10, 0) + _box(60, 40, actions=("stand",)) + _box(85, 60, outside=1) + _box(100, 8)
    path = write_cvat_tracks(tmp_path / "a.xml", f'<track id="3" label="person">{boxes}</track>', size=125)
    opened = import_into(tmp_path / "out", [path], videos)
    # At frame 25 three tenths of the way; at 75 on the way to where the person is outside.
    assert rows(opened) == {
        ("street", 0),
        *{("street", 1000, 3, _relative(12), "walk"), ("street", 2000, 3, _relative(32), "walk")},
        *{("street", 3000, 3, _relative(52), "stand"), ("street", 4000, 3, _relative(8), "walk")},
    }
    report = json.loads((tmp_path / "out" / "import_report.json").read_text())
    assert (report["interpolated"], report["dropped"]) == (3, {"drawn boxes between key frames": 2})
    annotated = import_into(tmp_path / "annotated", [path], videos, every_ms=0)
    assert {row[1] for row in rows(annotated)} == {400, 2400, 4000}


def _relative(x1: float) -> tuple[float, ...]:
    return tuple(np.float32([x1 / WIDTH, 8 / HEIGHT, (x1 + 8) / WIDTH, 40 / HEIGHT]).tolist())


def test_jobs_of_a_task_are_joined_where_they_overlap_and_other_people_get_new_ids(
    tmp_path: Path, videos: Path
) -> None:
    first = f'<track id="0" label="person">{_box(0, 0)}{_box(25, 8)}{_box(26, 8, outside=1)}</track>'
    second = f'<track id="5" label="person">{_box(25, 8)}{_box(50, 16)}</track>'
    second += f'<track id="0" label="person">{_box(50, 64)}</track>'
    jobs = [
        write_cvat_tracks(tmp_path / "job1.xml", first, size=26),
        write_cvat_tracks(tmp_path / "job2.xml", second, size=26, start=25),
    ]
    opened = import_into(tmp_path / "out", jobs, videos)
    assert {(row[1], row[2], row[3]) for row in rows(opened)} == {
        *{(0, 0, _relative(0)), (1000, 0, _relative(8)), (2000, 0, _relative(16)), (2000, 1, _relative(64))}
    }
    report = json.loads((tmp_path / "out" / "import_report.json").read_text())
    assert (report["merged"], report["renumbered"], len(report["files"])) == (1, 1, 2)


def test_attributes_with_a_choice_are_actions_unless_others_are_named(tmp_path: Path, videos: Path) -> None:
    path = write_cvat_tracks(tmp_path / "a.xml", CVAT_TRACK.replace("/></track>", ">@</box></track>"), size=1)
    values = {"walk": "true", "wave": "false", "note": "jump", "pose": "__undefined__"}
    filled = "".join(f'<attribute name="{name}">{value}</attribute>' for name, value in values.items())
    path.write_text(path.read_text().replace("@", filled))
    assert {row[4] for row in rows(import_into(tmp_path / "a", [path], videos))} == {"walk"}
    named = Reading(action_attributes=("note", "pose"))
    assert {row[4] for row in rows(import_into(tmp_path / "b", [path], videos, reading=named))} == {"jump"}
