"""Imports files of annotation tools in tests, and says what rows a scene of `tool_files` must become."""

from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import numpy as np
from click.testing import CliRunner, Result
from hypothesis import strategies as st

from cli.commands.dataset import dataset
from stal_data.dataset import Dataset
from stal_data.formats.sources import Reading
from stal_data.imports.media import ImportedMedia
from stal_data.imports.run import ImportOptions, import_files
from stal_data.labels import LabelMap
from tests.data.tool_files import ACTIONS, FPS, HEIGHT, WIDTH, Scene, label_map_text

Rows = set[tuple[object, ...]]
MAP = LabelMap.parse(label_map_text(), "labels")


def run_dataset(*words: str | Path) -> Result:
    return CliRunner().invoke(dataset, [str(word) for word in words])


def import_into(output: Path, paths: Iterable[Path], videos: Path, **options: object) -> Dataset:
    settled = {"name": "own", "reading": Reading(label_map=MAP), "fps": Fraction(FPS), **options}
    import_files(list(paths), output, ImportOptions(**settled), ImportedMedia(videos=videos))  # type: ignore[arg-type]
    return Dataset.open(output)


def rows(opened: Dataset, *, persons: bool = True, empty: bool = True) -> Rows:
    """Return (video, time in ms, person, box, action); a key frame without people is (video, time)."""
    assert opened.label_map is not None
    names = dict(zip(opened.label_map.ids, opened.label_map.names, strict=True))
    found: Rows = set()
    for item in opened.split(opened.split_names[0]).key_frames:
        key = (item.key.video, item.key.time_ms)
        found |= {key} if empty and not item.labels else set()
        for box, labels, person in zip(item.boxes_N4.tolist(), item.labels, item.persons, strict=True):
            found |= {(*key, person if persons else None, tuple(box), names[label]) for label in labels}
    return found


def expected(scene: Scene, *, persons: bool = True, empty: bool = True) -> Rows:
    found: Rows = set()
    for video, seconds in scene.items():
        for second, people in seconds.items():
            found |= {(video, 1000 * second)} if empty and not people else set()
            for person, (x1, y1, x2, y2), actions in people:
                box = tuple(np.float32([x1 / WIDTH, y1 / HEIGHT, x2 / WIDTH, y2 / HEIGHT]).tolist())
                found |= {(video, 1000 * second, person if persons else None, box, action) for action in actions}
    return found


def scenes() -> st.SearchStrategy[Scene]:
    side = st.tuples(st.integers(0, WIDTH - 2), st.integers(0, HEIGHT - 2), st.integers(1, 40), st.integers(1, 40))
    box = side.map(lambda s: (s[0], s[1], min(s[0] + s[2], WIDTH), min(s[1] + s[3], HEIGHT)))
    actions = st.lists(st.sampled_from(ACTIONS), min_size=1, unique=True).map(tuple)
    people = st.dictionaries(st.integers(0, 5), st.tuples(box, actions), max_size=3)
    # Two people in one box would be one where the file has no ids.
    people = people.filter(lambda found: len({box for box, _ in found.values()}) == len(found))
    seconds = st.lists(people, min_size=1, max_size=5).filter(any)
    scene = st.dictionaries(st.sampled_from(["street", "yard"]), seconds, min_size=1)
    return scene.map(
        lambda found: {
            video: {n: [(p, *rest) for p, rest in people.items()] for n, people in enumerate(seconds)}
            for video, seconds in found.items()
        }
    )
