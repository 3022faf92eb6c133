"""`dataset suggest`: pre-annotations that `dataset import` reads back, and the order in which to label."""

import csv
import json
import math
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from cache.feature_store import open_feature_set
from cli.commands.dataset import dataset
from cli.workflow.labelling.ranking import choose, pooled, rank
from cli.workflow.predictions import Person, read_predictions
from stal_data.dataset import Dataset
from stal_data.errors import InputError
from stal_data.keyframes import KeyFrame
from stal_data.labels import LabelMap
from tests.data.folders import LABELS, write_small_dataset
from tests.data.videos import constant, write_video
from tests.recognizer.toy_store import make_scene, make_store

MAP = LabelMap.parse(LABELS, "labels")
LEFT, NEAR, RIGHT = "0.1,0.2,0.3,0.8", "0.15,0.2,0.35,0.8", "0.6,0.2,0.8,0.8"
"""Boxes; the second is that of the first person a second later."""


def _run(*words: str | Path) -> Result:
    return CliRunner().invoke(dataset, [str(word) for word in words])


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A data set of one video of four seconds, without annotations; labels.pbtxt is beside it."""
    write_video(tmp_path / "street.mp4", constant(25, 100), rate=25)
    assert _run("from-videos", tmp_path / "street.mp4", "--output", tmp_path / "own", "--name", "own").exit_code == 0
    (tmp_path / "labels.pbtxt").write_text(LABELS)
    return tmp_path / "own"


def _predicted(path: Path, rows: Sequence[tuple[int, str, dict[int, float]]], persons: Sequence[int] = ()) -> Path:
    ends = [f",{person}" for person in persons] or [""] * len(rows)
    path.write_text(
        "".join(
            f"street,{second:04d},{box},{label},{score}{end}\n"
            for (second, box, scores), end in zip(rows, ends, strict=True)
            for label, score in scores.items()
        )
    )
    return path


ROWS = [
    (0, LEFT, {1: 0.9, 2: 0.6, 3: 0.1}),
    (0, RIGHT, {1: 0.2, 2: 0.1, 3: 0.5}),
    (1, NEAR, {1: 0.9, 2: 0.7, 3: 0.1}),
    (3, RIGHT, {1: 0.3, 2: 0.1, 3: 0.4}),
]


def _suggest(own: Path, predictions: Path, target: str, *words: str | Path) -> tuple[Result, list[Path]]:
    out = own.parent / f"out-{target}"
    labels = ("--label-map", own.parent / "labels.pbtxt")
    done = _run(
        "suggest", "people", own, "--split", "all", "--predictions", predictions, *labels, "--to", target,
        "--output", out, *words,
    )  # fmt: skip
    return done, sorted(out.iterdir()) if out.is_dir() else [out]


def _imported(own: Path, files: list[Path], name: str) -> dict[tuple[int, int], tuple[tuple[float, ...], set[str]]]:
    """Return box and actions by second and person."""
    root = own.parent / f"imported-{name}"
    done = _run(
        "import", *files, "--videos", own.parent, "--output", root, "--name", "again", "--label-map",
        own.parent / "labels.pbtxt",
    )  # fmt: skip
    assert done.exit_code == 0, f"{done.output} {done.exception}"
    return {
        (item.key.time_ms // 1000, person): (tuple(box.tolist()), {MAP.names[label - 1] for label in labels})
        for item in Dataset.open(root).split("all").key_frames
        for box, labels, person in zip(item.boxes_N4, item.labels, item.persons, strict=True)
    }


def _box(text: str) -> tuple[float, ...]:
    return tuple(np.float32(text.split(",")).tolist())


@pytest.mark.parametrize("target", ["cvat", "label_studio"])
@pytest.mark.parametrize("persons", [(), (4, 9, 4, 9)])
def test_what_is_written_for_a_tool_is_read_back_with_tracks_and_actions(
    target: str, persons: tuple[int, ...], own: Path, tmp_path: Path
) -> None:
    done, files = _suggest(own, _predicted(tmp_path / "p.csv", ROWS, persons), target)
    assert done.exit_code == 0, done.output
    assert "Wrote 4 boxes with 5 actions in 4 key frames" in done.stdout
    left, right, late = (persons[0], persons[1], persons[3]) if persons else (1, 2, 3)
    expected = {
        (0, left): (_box(LEFT), {"stand", "walk"}),
        (0, right): (_box(RIGHT), {"wave"}),
        (1, left): (_box(NEAR), {"stand", "walk"}),
        (3, late): (_box(RIGHT), set()),
    }
    found = _imported(own, files, target)
    if target == "label_studio":  # who is whom is in the regions
        found = {(second, 0): sorted(v for (s, _), v in found.items() if s == second) for second, _ in found}
        expected = {(second, 0): sorted(v for (s, _), v in expected.items() if s == second) for second, _ in expected}
    assert found == expected


def test_label_studio_gets_predictions_in_its_form(own: Path, tmp_path: Path) -> None:
    done, (file,) = _suggest(own, _predicted(tmp_path / "p.csv", ROWS), "label_studio")
    assert done.exit_code == 0, done.output
    (task,) = json.loads(file.read_text())
    assert task.keys() == {"data", "predictions"}
    assert task["data"] == {"video": "street.mp4", "fps": 25.0}
    (prediction,) = task["predictions"]
    assert prediction["model_version"] == "p.csv"
    boxes = {item["id"]: item for item in prediction["result"] if item["type"] == "videorectangle"}
    choices = {item["id"]: item["value"]["choices"] for item in prediction["result"] if item["type"] == "choices"}
    assert len(boxes) == 3
    (walker,) = (item for item in boxes.values() if choices.get(item["id"]) == ["stand", "walk"])
    assert (walker["from_name"], walker["to_name"]) == ("box", "video")
    assert (walker["value"]["framesCount"], walker["value"]["duration"]) == (100, 4)
    first, last = walker["value"]["sequence"]
    assert (first["frame"], first["enabled"], last["frame"], last["enabled"]) == (1, True, 26, False)
    sides = [first[side] for side in ("x", "y", "width", "height", "rotation")]
    np.testing.assert_allclose(sides, [10, 20, 20, 60, 0], rtol=1e-6)


def test_what_may_have_been_corrected_is_not_replaced(own: Path, tmp_path: Path) -> None:
    predictions = _predicted(tmp_path / "p.csv", ROWS)
    _, (file,) = _suggest(own, predictions, "label_studio")
    file.write_text("corrected")
    done, _ = _suggest(own, predictions, "label_studio")
    assert done.exit_code != 0
    assert f"The output '{file}' exists and is not replaced" in str(done.exception)
    assert file.read_text() == "corrected"


def test_thresholds_of_a_result_come_before_the_least_score(own: Path, tmp_path: Path) -> None:
    points = {"stand": {"score": 0.95}, "walk": None, "wave": {"score": 0.4}}
    metrics = {"best_f1": points}
    (tmp_path / "metrics.json").write_text(json.dumps(metrics))
    words = ("--thresholds", tmp_path / "metrics.json", "--min-score", "0.65")
    done, files = _suggest(own, _predicted(tmp_path / "p.csv", ROWS), "cvat", *words)
    assert done.exit_code == 0, f"{done.output} {done.exception}"
    actions = [actions for _, actions in _imported(own, files, "cut").values()]
    assert sorted(map(sorted, actions)) == [[], ["walk"], ["wave"], ["wave"]]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("street,0,0.1,0.2,0.3,0.4,1", "line 1: the line has 7 columns"),
        ("street,0,0.1,0.2,0.3,4,1,0.5", "line 1: the box must be"),
        ("street,0,0.3,0.2,0.1,0.4,1,0.5", "line 1: the box must be"),
        ("street,0,0.1,0.2,0.3,0.4,1,1.5", r"the score in \[0,1\]"),
        ("street,0,0.1,0.2,0.3,0.4,1,nan", "the score is 'nan', but must be finite"),
        ("street,0,0.1,0.2,0.3,0.4,1,0.5,x", "the person is 'x', but must be a number"),
        ("street,0,0.1,0.2,0.3,0.4,1,0.5,-2", "the person at least -1"),
        ("a/b,0,0.1,0.2,0.3,0.4,1,0.5", "the video is 'a/b'"),
    ],
)
def test_a_bad_row_of_predictions_is_refused(line: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text(line + "\n")
    with pytest.raises(InputError, match=message):
        read_predictions(tmp_path / "p.csv", min_score=0)


def test_predictions_of_another_split_are_refused(own: Path, tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text(f"yard,0,{LEFT},1,0.5\n")
    done, _ = _suggest(own, tmp_path / "p.csv", "cvat")
    assert "1 key frame that split 'all' lacks, the first is yard,0000" in str(done.exception)
    (tmp_path / "p.csv").write_text(f"street,0,{LEFT},9,0.5\n")
    assert "Label 9 is not in" in str(_suggest(own, tmp_path / "p.csv", "cvat")[0].exception)


POINTS = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=8)


@given(points=POINTS, count=st.integers(1, 4))
def test_of_equal_values_the_choice_covers_within_twice_the_best_radius(
    points: list[tuple[int, int]], count: int
) -> None:
    def radius(centres: Sequence[int]) -> float:
        return max(min(math.dist(point, points[place]) for place in centres) for point in points)

    chosen = [place for place, _ in choose(np.ones(len(points)), np.float32(points), count)]
    assert len(set(chosen)) == min(count, len(points))
    best = min(radius(centres) for centres in combinations(range(len(points)), min(count, len(points))))
    assert radius(chosen) <= 2 * best + 1e-6


@given(points=POINTS, values=st.lists(st.integers(1, 9), min_size=8, max_size=8))
def test_each_choice_has_the_largest_product_of_value_and_distance(
    points: list[tuple[int, int]], values: list[int]
) -> None:
    values = values[: len(points)]
    chosen = choose(np.float64(values), np.float32(points), len(points))
    assert chosen[0] == (values.index(max(values)), None)
    for number, (place, distance) in enumerate(chosen[1:], start=1):
        nearest = [min(math.dist(point, points[other]) for other, _ in chosen[:number]) for point in points]
        left = set(range(len(points))) - {other for other, _ in chosen[:number]}
        assert distance == pytest.approx(nearest[place], abs=1e-5)
        assert values[place] * nearest[place] == pytest.approx(max(values[n] * nearest[n] for n in left), abs=1e-4)


def test_unsure_people_and_rare_classes_come_first_with_the_reason() -> None:
    def person(**scores: float) -> Person:
        return Person((0, 0, 1, 1), tuple((MAP.ids[MAP.names.index(name)], p) for name, p in scores.items()))

    people = {
        KeyFrame("a", 0): [person(stand=0.5, walk=0, wave=0)],
        KeyFrame("b", 0): [person(stand=0, walk=0, wave=0.5)],
        KeyFrame("c", 0): [person(stand=0, walk=0, wave=0.5), person(stand=0, walk=1, wave=0)],
        KeyFrame("d", 0): [person(stand=1, walk=0, wave=0)],
        KeyFrame("e", 0): [],
    }
    found = rank(people, {1: 99, 2: 9, 3: 1}, MAP, 10)
    assert [item.key.video for item in found] == ["b", "c", "a", "d"]
    weights = np.array([1 / 100, 1 / 10, 1 / 2])
    expected = np.array([weights[2], weights[2] / 2, weights[0], 0]) / weights.sum()
    np.testing.assert_allclose([item.uncertainty for item in found], expected)
    assert found[0].reason == "unsure of 'wave' scored 0.50 (1 labelled)"
    assert found[3].reason == "sure of everything"
    assert rank({KeyFrame("e", 0): []}, {}, MAP, 1) == []


def test_the_command_suggests_unlabelled_key_frames_that_look_different(tmp_path: Path) -> None:
    store = make_store(tmp_path / "store", train=10, test=10, vit=True, views=("identity",))
    root = write_small_dataset(tmp_path / "data")
    scenes = [make_scene(index, seed=1) for index in range(10)]
    rows = [
        f"{s.key_frame.key.video},{s.key_frame.key.time_ms // 1000},{LEFT},{n},0.5" for s in scenes for n in MAP.ids
    ]
    (tmp_path / "p.csv").write_text("\n".join([*rows, f"a,1,{LEFT},1,0.5", f"b,1,{LEFT},1,0.5"]) + "\n")
    words = ("suggest", "next", root, "--labelled", "train", "--labelled", "test", "--predictions", tmp_path / "p.csv")
    words = (*words, "--count", "4", "--store", tmp_path / "store", "--pool", "toy/test")
    done = _run(*words)
    assert done.exit_code == 0, f"{done.output} {done.exception}"
    header, *lines = csv.reader(done.stdout.splitlines())
    assert header == ["video", "time", "uncertainty", "distance", "reason"]
    points = np.stack([_pooled_naively(scene) for scene in scenes])
    chosen = [0]
    while len(chosen) < 4:
        distances = [min(np.linalg.norm(points[n] - points[m]) for m in chosen) for n in range(10)]
        chosen.append(int(np.argmax(distances)))
    assert [(video, int(time) * 1000) for video, time, *_ in lines] == [
        (scenes[n].key_frame.key.video, scenes[n].key_frame.key.time_ms) for n in chosen
    ]
    features = open_feature_set(store, "toy", "test")
    np.testing.assert_allclose(pooled(features, features.key_frames), points, atol=1e-3)
    assert [item["key"] for item in json.loads(_run(*words, "--json").stdout)] == [f"{v},{t}" for v, t, *_ in lines]
    assert _run(*words[:-2]).exit_code == 2


def _pooled_naively(scene: object) -> np.ndarray:
    means = [getattr(scene, name).mean(axis=(1, 2)) for name in ("slow", "fast", "vit")]
    joined = np.concatenate([mean / np.linalg.norm(mean) for mean in means])
    return joined / np.linalg.norm(joined)
