"""Segments of actions: against a plain implementation, by hand, and as a command."""

import csv
import json
import math
from itertools import pairwise
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

import stal_eval
from cli.commands.segments import segments
from stal_data.errors import InputError, NotFoundError
from stal_eval.segment_f1 import evaluate_segments
from stal_eval.segments import Segment, SegmentRules, find_segments
from stal_eval.table import load_table
from stal_eval.thresholds import read_thresholds
from tests.eval.frames import LABEL_MAP

Scores = dict[tuple[str, int, int, int], float]
"""By video, person, label id and time in milliseconds."""
BOX = ".1,.1,.5,.5"


def write(path: Path, scores: Scores) -> Path:
    path.write_text(
        "".join(
            f"{video},{time / 1000},{BOX},{label},{score!r},{person}\n"
            for (video, person, label, time), score in scores.items()
        )
    )
    return path


def plain_segments(scores: Scores, thresholds: dict[int, float], rules: SegmentRules) -> list[Segment]:
    """The definition, key frame by key frame."""
    frames = {video: sorted({time for v, _, _, time in scores if v == video}) for video, *_ in scores}
    steps = sorted(b - a for times in frames.values() for a, b in pairwise(times))
    middle = len(steps) // 2
    half = ((steps[middle] + steps[~middle]) / 2 if steps else 1000) / 2

    def span(video: str, time: int) -> tuple[float, float]:
        before = [time - other for other in frames[video] if other < time]
        after = [other - time for other in frames[video] if other > time]
        return max(time - min([half, *(gap / 2 for gap in before)]), 0), time + min([half, *(g / 2 for g in after)])

    def mean(video: str, person: int, label: int, time: int, times: list[int]) -> float:
        sigma = 1000 * rules.smooth_s
        near = [t for t in times if t == time or (sigma and abs(t - time) / sigma <= 3)]
        weights = [math.exp(-0.5 * ((t - time) / sigma) ** 2) if t != time else 1.0 for t in near]
        values = [scores.get((video, person, label, t), 0.0) for t in near]
        return sum(w * value for w, value in zip(weights, values, strict=True)) / sum(weights)

    found = []
    for video, person in sorted({(video, person) for video, person, _, _ in scores if person >= 0}):
        times = sorted({t for v, p, _, t in scores if (v, p) == (video, person)})
        mine = []
        for label, threshold in thresholds.items():
            means = {time: mean(video, person, label, time, times) for time in times}
            runs: list[list[int]] = []
            for time in (time for time in times if means[time] >= rules.hold * threshold):
                if runs and span(video, time)[0] - span(video, runs[-1][-1])[1] <= 1000 * rules.max_gap_s:
                    runs[-1].append(time)
                else:
                    runs.append([time])
            for run in runs:
                start, end = span(video, run[0])[0], span(video, run[-1])[1]
                inside = [means[time] for time in times if run[0] <= time <= run[-1]]
                starts = any(means[time] >= threshold for time in run)
                if starts and end - start >= 1000 * rules.min_length_s:
                    score = sum(inside) / len(inside)
                    mine.append(
                        Segment(video=video, person=person, label_id=label, start_ms=start, end_ms=end, score=score)
                    )
        found += sorted(mine, key=lambda item: (item.start_ms, item.label_id))
    return found


# Steps of 500 ms, so that differences of spans and limits are exact; scores that no mean has by chance.
KEYS = st.tuples(
    st.sampled_from("ab"), st.integers(-1, 2), st.sampled_from([1, 2, 4, 7]), st.integers(0, 14).map(lambda n: 500 * n)
)


@settings(max_examples=150, deadline=None)
@given(
    scores=st.dictionaries(KEYS, st.floats(0.001, 1), min_size=1, max_size=60),
    smooth=st.sampled_from([0.0, 0.3, 0.7, 2.0]),
    gap=st.sampled_from([0.0, 0.5, 1.0, 3.0]),
    shortest=st.sampled_from([0.0, 0.5, 2.0]),
    hold=st.sampled_from([1.0, 0.7, 0.3]),
    threshold=st.floats(0.1, 0.7),
)
def test_segments_are_those_of_the_definition(
    tmp_path_factory: pytest.TempPathFactory,
    scores: Scores,
    smooth: float,
    gap: float,
    shortest: float,
    hold: float,
    threshold: float,
) -> None:
    table = load_table(write(tmp_path_factory.mktemp("p") / "p.csv", scores), "predictions")
    rules = SegmentRules(smooth_s=smooth, max_gap_s=gap, min_length_s=shortest, hold=hold)
    thresholds = {1: threshold, 4: threshold / 2}
    if all(person < 0 for _, person, _, _ in scores):
        with pytest.raises(InputError, match="has no ids of people"):
            find_segments(table, thresholds, rules)
        return
    found, expected = find_segments(table, thresholds, rules), plain_segments(scores, thresholds, rules)
    assert [(s.video, s.person, s.label_id, s.start_ms, s.end_ms) for s in found] == [
        (s.video, s.person, s.label_id, s.start_ms, s.end_ms) for s in expected
    ]
    assert [s.score for s in found] == pytest.approx([s.score for s in expected], abs=1e-9)


def seconds(scores: list[float], label: int = 1, start: int = 0) -> Scores:
    return {("a", 1, label, 1000 * (start + place)): score for place, score in enumerate(scores)}


@pytest.mark.parametrize(
    ("scores", "rules", "spans"),
    [
        (seconds([0.9, 0.9, 0.1, 0.9]), {"max_gap_s": 0.0}, [(0, 1.5), (2.5, 3.5)]),
        (seconds([0.9, 0.9, 0.1, 0.9]), {"max_gap_s": 1.0}, [(0, 3.5)]),
        (seconds([0.9, 0.9, 0.1, 0.9]), {"max_gap_s": 0.0, "min_length_s": 1.5}, [(0, 1.5)]),
        # Nobody sees the person at second 12, which somebody else's key frame shows.
        (seconds([0.9, 0.9], start=10) | seconds([0.9], start=13) | {("a", 2, 1, 12000): 0.1}, {"max_gap_s": 0.0},
         [(9.5, 11.5), (12.5, 13.5)]),
        # Between key frames 2 and 6 nothing is known of 3 to 5.
        (seconds([0.9, 0.9, 0.9]) | seconds([0.9], start=6), {"max_gap_s": 1.0}, [(0, 2.5), (5.5, 6.5)]),
        (seconds([0.9], start=7), {}, [(6.5, 7.5)]),
        (seconds([0.3, 0.9, 0.3, 0.2]) | seconds([0.3, 0.4], start=8), {"hold": 0.5}, [(0, 2.5)]),
        (seconds([0.1, 0.9, 0.1]), {"smooth_s": 1.0}, []),
        (seconds([0.9, 0.4, 0.9]), {"smooth_s": 1.0, "max_gap_s": 0.0}, [(0, 2.5)]),
    ],
)  # fmt: skip
def test_by_hand(tmp_path: Path, scores: Scores, rules: dict[str, float], spans: list[tuple[float, float]]) -> None:
    table = load_table(write(tmp_path / "p.csv", scores), "predictions")
    found = find_segments(table, {1: 0.5}, SegmentRules(**({"smooth_s": 0.0} | rules)))
    assert [(item.start_ms / 1000, item.end_ms / 1000) for item in found if item.person == 1] == spans


def run(*words: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(segments, [str(word) for word in words])
    if isinstance(result.exception, InputError | NotFoundError):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path, Path]:
    """Predictions, a label map, and the metrics.json of these predictions: no threshold for class 4."""
    walks = seconds([0.9, 0.8, 0.1, 0.2])
    waves = seconds([0.1, 0.1, 0.6, 0.7], label=2)
    other = {("b", -1, 1, 0): 0.3, ("a", 1, 9, 0): 0.3}
    predictions = write(tmp_path / "p.csv", walks | waves | other)
    truth = tmp_path / "g.csv"
    truth.write_text(f"a,0,{BOX},1\na,1,{BOX},1\na,2,{BOX},2\na,3,{BOX},2\n")
    label_map = tmp_path / "labels.pbtxt"
    label_map.write_text(LABEL_MAP.to_pbtxt())
    metrics = stal_eval.evaluate(predictions, truth, LABEL_MAP).write(tmp_path / "results")
    return predictions, label_map, metrics


def test_the_command_takes_thresholds_from_a_result(files: tuple[Path, Path, Path], tmp_path: Path) -> None:
    predictions, label_map, metrics = files
    assert read_thresholds(metrics, LABEL_MAP) == {1: 0.8, 2: 0.6}
    output = tmp_path / "actions.csv"
    words = (predictions, "--label-map", label_map, "--smooth", 0, "--output", output)
    code, said, notes = run(*words, "--thresholds", metrics)
    assert (code, said) == (0, f"{output}: 2 segments of 1 person in 1 video\n")
    assert "no segments of watch" in notes
    assert "1 of 10 rows left out: no track" in notes
    assert "1 row left out: of classes outside" in notes
    with output.open(newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["video", "person", "action", "start_s", "end_s", "score"]
    assert [row[:5] for row in rows] == [["a", "1", "walk", "0.0", "1.5"], ["a", "1", "wave", "1.5", "3.5"]]
    assert [float(row[5]) for row in rows] == pytest.approx([0.85, 0.65])
    code, said, notes = run(*words, "--thresholds", metrics, "--min-score", 0)
    assert (code, "no segments of" in notes) == (0, False)
    assert f"{output}: 3 segments" in said  # of the third class, which scores 0 everywhere, too
    assert run(*words, "--thresholds", metrics, "--hold", 0.2)[0] == 0  # walk goes on at 0.2, not at 0.1
    with output.open(newline="") as file:
        assert [row[2:5] for row in csv.reader(file)][1:] == [["walk", "0.0", "3.5"], ["wave", "1.5", "3.5"]]
    assert set(evaluate_segments(output, output)["per_action"]) == {"walk", "wave"}


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("{}", "has no field 'best_f1'"),
        ("[", "cannot be read as JSON"),
        ('{"best_f1": {"walk": null, "wave": null}}', "differ in 'watch': give the label map that was scored with"),
        ('{"best_f1": {"walk": {}, "wave": null, "watch": null}}', "best_f1 of 'walk' .* has no score"),
        ('{"best_f1": {"walk": {"score": NaN}, "wave": null, "watch": null}}', "best_f1 of 'walk' .* has no score"),
    ],
)
def test_bad_thresholds_are_refused(tmp_path: Path, content: str, text: str) -> None:
    path = tmp_path / "metrics.json"
    path.write_text(content)
    with pytest.raises(InputError, match=text):
        read_thresholds(path, LABEL_MAP)


def test_the_command_refuses_what_it_cannot_use(files: tuple[Path, Path, Path], tmp_path: Path) -> None:
    predictions, label_map, metrics = files
    words = ("--label-map", label_map, "--output", tmp_path / "out.csv")
    code, _, said = run(predictions, *words)
    assert (code, "give --thresholds METRICS.JSON, --min-score SCORE or both" in said) == (2, True)
    with pytest.raises(NotFoundError, match=r"thresholds: the file .* does not exist"):
        run(predictions, *words, "--thresholds", tmp_path / "none.json")
    untracked = tmp_path / "u.csv"
    untracked.write_text(f"a,0,{BOX},1,0.5\n")
    with pytest.raises(InputError, match=r"u\.csv has no ids of people .* detect --track"):
        run(untracked, *words, "--thresholds", metrics)
    assert json.loads(metrics.read_text())["best_f1"]["watch"] is None
    assert not (tmp_path / "out.csv").exists()
