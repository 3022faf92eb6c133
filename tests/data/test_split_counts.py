"""`dataset stats`: the counts are those of a naive count, and the page shows them."""

import json
from collections import Counter
from itertools import permutations
from pathlib import Path

import numpy as np
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from cli.commands.dataset import dataset
from cli.workflow.stats_page import page_text, sections
from stal_data.dataset import Split
from stal_data.keyframes import AnnotatedKeyFrame, KeyFrame
from stal_data.labels import Label, LabelMap
from stal_data.split_counts import count_split
from tests.data.folders import write_small_dataset

MAP = LabelMap([Label(1, "sit"), Label(2, "<b>run</b>"), Label(5, "wave")])
PEOPLE = st.lists(st.frozensets(st.sampled_from(MAP.ids), max_size=3), max_size=4)
SIDES = ((0.01, "small"), (0.1, "medium"), (0.5, "large"))


def _split(scene: list[list[frozenset[int]]]) -> Split:
    key_frames = tuple(
        AnnotatedKeyFrame(
            key=KeyFrame("v", 1000 * second),
            window=None,
            boxes_N4=np.float32([[0, 0, SIDES[n % 3][0], SIDES[n % 3][0]] for n in range(len(people))]).reshape(-1, 4),
            labels=tuple(people),
            persons=tuple(range(len(people))),
        )
        for second, people in enumerate(scene)
    )
    return Split(
        dataset="d", name="s", key_frames=key_frames, exclusions=frozenset(), annotated=True, label_map=MAP, media=None
    )  # type: ignore[arg-type]


@given(scene=st.lists(PEOPLE, min_size=1, max_size=6))
def test_counts_are_those_of_a_naive_count(scene: list[list[frozenset[int]]]) -> None:
    found, names = count_split(_split(scene)), dict(zip(MAP.ids, MAP.names, strict=True))
    assert found.people == Counter(map(len, scene))
    assert found.sizes == {size: sum(len(people[n::3]) for people in scene) for n, (_, size) in enumerate(SIDES)}
    pairs = [(a, b) for a in MAP.ids for b in MAP.ids if a <= b]
    one = {(a, b): sum({a, b} <= labels for people in scene for labels in people) for a, b in pairs if a != b}
    two = {
        (a, b): sum(any(a in x and b in y for x, y in permutations(people, 2)) for people in scene) for a, b in pairs
    }
    for counted, expected in ((found.one_person, one), (found.two_people, two)):
        assert {(a, b): n for a, b, n in counted} == {(names[a], names[b]): n for (a, b), n in expected.items() if n}
        assert [n for *_, n in counted] == sorted((n for *_, n in counted), reverse=True)


def test_the_page_has_every_count_and_no_markup_of_names() -> None:
    counted = count_split(_split([[frozenset({1, 2}), frozenset({2})], []]))
    page = page_text("<script>", [counted])
    assert "<script>" not in page
    assert "<b>run" not in page
    assert "sit + &lt;b&gt;run&lt;/b&gt;" in page
    rows = {section.title: dict(section.rows) for section in sections([counted])}
    assert rows["Splits"] == {
        "videos": [1], "key frames": [2], "without people": [1], "excluded": [0], "boxes": [2], "actions": [3]
    }  # fmt: skip
    assert rows["People a key frame"] == {"0": [1], "2": [1]}
    assert rows["Classes of two people"] == {"sit + <b>run</b>": [1], "<b>run</b> + <b>run</b>": [1]}


def test_the_command_prints_tables_or_json_and_writes_the_page(tmp_path: Path) -> None:
    root, page = write_small_dataset(tmp_path / "data"), tmp_path / "page.html"
    done = CliRunner().invoke(dataset, ["stats", str(root), "--output", str(page)])
    assert done.exit_code == 0, done.output
    assert "stand + wave" in done.stdout
    assert "<td>stand + wave</td>" in page.read_text()
    (train, test) = json.loads(CliRunner().invoke(dataset, ["stats", str(root), "--json"]).stdout)
    assert (train["counts"]["split"], test["counts"]["split"]) == ("train", "test")
    assert train["one_person"] == [["stand", "wave", 2]]
