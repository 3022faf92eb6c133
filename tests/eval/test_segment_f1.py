"""Segment-F1 against the rule of temporal segmentation, and what several people at a time make of it."""

import gzip
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stal_data.errors import InputError
from stal_eval.segment_f1 import evaluate_segments

HEADER = "video,person,action,start_s,end_s,score"
Frames = list[str]


def runs(frames: Frames) -> list[tuple[str, int, int]]:
    """Action, start and end of each run of equal frames; "-" is no action."""
    cuts = [n for n in range(len(frames) + 1) if n in (0, len(frames)) or frames[n] != frames[n - 1]]
    return [(frames[a], a, b) for a, b in pairwise(cuts) if frames[a] != "-"]


def write(path: Path, videos: list[Frames]) -> Path:
    rows = [f"v{n},1,{action},{a},{b},0.5\n" for n, frames in enumerate(videos) for action, a, b in runs(frames)]
    path.write_text(f"{HEADER}\n" + "".join(rows))
    return path


def plain_f1(videos: list[tuple[Frames, Frames]], overlap: float) -> float:
    """One sequence a video: each predicted run looks at the annotated run of its action with the best IoU."""
    right = total = 0
    for found, truth in videos:
        annotated, taken = runs(truth), set()
        for action, a, b in runs(found):
            ious = [
                (min(b, d) - max(a, c)) / (max(b, d) - min(a, c)) if other == action else 0 for other, c, d in annotated
            ]
            best = max(range(len(ious)), key=ious.__getitem__, default=None)
            if best is not None and ious[best] >= overlap and best not in taken:
                taken.add(best)
                right += 1
        total += len(runs(found)) + len(annotated)
    return 2 * right / total


_frames = st.lists(st.sampled_from("--aab"), min_size=1, max_size=14)


@given(
    videos=st.lists(st.tuples(_frames, _frames), min_size=1, max_size=3).filter(lambda v: any(runs(t) for _, t in v))
)
@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_for_one_person_at_a_time_it_is_the_f1_of_temporal_segmentation(
    tmp_path: Path, videos: list[tuple[Frames, Frames]]
) -> None:
    found, truth = (write(tmp_path / f"{n}.csv", [video[n] for video in videos]) for n in (0, 1))
    result = evaluate_segments(found, truth)
    assert result["overall"]["f1"] == pytest.approx([plain_f1(videos, overlap) for overlap in (0.1, 0.25, 0.5)])
    for counts in ("right", "ground_truth", "predictions"):
        values = [row[counts] for row in result["per_action"].values()]
        total = [sum(column) for column in zip(*values, strict=True)] if counts == "right" else sum(values)
        assert total == result["overall"][counts]


def test_people_who_do_the_same_at_the_same_time_are_found_once_each(tmp_path: Path) -> None:
    (tmp_path / "truth.csv").write_text("video,person,action,start_s,end_s\n" + "v,1,walk,0,10\nv,2,walk,0,10\n")
    for number, right in ((1, 1), (2, 2), (3, 2)):
        rows = "".join(f"v,{person},walk,0,{9 + person / 10},0.5\n" for person in range(number))
        (tmp_path / "found.csv").write_text(f"{HEADER}\n{rows}")
        overall = evaluate_segments(tmp_path / "found.csv", tmp_path / "truth.csv")["overall"]
        assert overall["right"] == [right] * 3
        assert overall["f1"] == [2 * right / (number + 2)] * 3


def test_a_file_may_be_gzip_and_have_no_segment_in_predictions(tmp_path: Path) -> None:
    (tmp_path / "found.csv").write_text(f"{HEADER}\n")
    (tmp_path / "truth.csv.gz").write_bytes(gzip.compress(f"{HEADER}\nv,1,walk,0.0165,10,\n".encode()))
    assert evaluate_segments(tmp_path / "found.csv", tmp_path / "truth.csv.gz")["overall"]["f1"] == [0, 0, 0]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "the first line is '', but must be video,person,action,start_s,end_s,score"),
        ("v,1,walk,0,10,0.5\n", "the first line is 'v,1,walk,0,10,0.5', but must be"),
        (f"{HEADER}\nv,1,walk,0,10\n", "line 2: the line has 5 columns, but the header has 6"),
        (f"{HEADER}\nv,1,,0,10,\n", "line 2: the video or the action is empty"),
        (f"{HEADER}\nv,1,walk,x,10,\n", "line 2: the time is 'x'"),
        (f"{HEADER}\nv,1,walk,10,10,\n", "line 2: the segment from 10 to 10 has no length"),
        (f"{HEADER}\n", "holds no segment"),
    ],
)
def test_bad_segments_are_named_with_line_and_rule(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "truth.csv").write_text(content)
    (tmp_path / "found.csv").write_text(f"{HEADER}\n")
    with pytest.raises(InputError, match=message):
        evaluate_segments(tmp_path / "found.csv", tmp_path / "truth.csv")
