"""Style b of the synthetic data set: its classes, its boxes, and pairs of classes that only the order tells apart."""

import dataclasses
from collections import Counter, defaultdict
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from cli.commands.dataset import synth
from stal_data.dataset import Dataset
from stal_data.errors import InputError
from stal_data.synth import STYLES, render_dataset
from stal_data.synth.base import Annotation
from stal_data.synth.clip import NUM_FRAMES
from stal_data.synth.style_b import acts, cycles
from stal_data.synth.style_b.acts import Act, Clock
from stal_data.synth.style_b.cast import SCENARIOS
from stal_data.synth.style_b.classes import BACKWARDS, CLASSES, INTERACTIONS, MOVEMENTS, ORDER_PAIRS, RARE
from stal_data.synth.style_b.motion import make_motion
from stal_data.synth.style_b.props import Prop
from stal_data.synth.style_b.scene import Scene
from stal_data.synth.style_b.video import HallVideo
from tests.data.test_synth import digests

TEST_VIDEOS = 60


def annotations(seed: int, split: str, count: int) -> list[Annotation]:
    videos = [HallVideo(seed=seed, split=split, number=i) for i in range(count)]
    return [a for video in videos for a in video.annotations(video.plan())]


@pytest.fixture(scope="module", params=[0, pytest.param(5, marks=pytest.mark.slow)])
def test_split(request: pytest.FixtureRequest) -> list[Annotation]:
    """The annotations of a default test split, generated without pixels."""
    return annotations(request.param, "test", TEST_VIDEOS)


@pytest.fixture(scope="module")
def crowd() -> tuple[HallVideo, Scene]:
    """A video of a crowd before a camera that moves."""
    videos = (
        HallVideo(seed=2, split="train", number=i) for i in range(100) if SCENARIOS[i % len(SCENARIOS)] == "crowd"
    )
    return next((v, s) for v in videos if np.ptp((s := v.plan()).camera.origin_T2[:, 0]) > 30 and len(s.actors) > 7)


def test_a_default_test_split_has_enough_of_every_class_and_as_much_of_both_of_a_pair(
    test_split: list[Annotation],
) -> None:
    counts = Counter(CLASSES.names[a.label_id - 1] for a in test_split)
    assert set(counts) == set(CLASSES.names)
    assert min(counts[name] for name in RARE) >= 8, counts
    assert min(counts[name] for name in set(CLASSES.names) - set(RARE)) >= 15, counts
    for one, other in ORDER_PAIRS:
        assert 0.6 < counts[one] / counts[other] < 1.67, counts


def test_one_person_in_fifty_does_something_rare() -> None:
    for start in (0, 140):
        scenes = [HallVideo(seed=0, split="train", number=start + i).plan() for i in range(len(SCENARIOS))]
        people = [{name for names in a.act.classes for name in names} for scene in scenes for a in scene.actors]
        assert 80 <= len(people) <= 150
        assert [sum(name in classes for classes in people) for name in RARE] == [2, 2]


def test_every_person_has_one_of_the_first_eight_classes_and_interactions_come_on_top(
    test_split: list[Annotation],
) -> None:
    assert CLASSES.names[:8] == MOVEMENTS
    people = defaultdict(list)
    for a in test_split:
        people[a.video, a.timestamp, a.person].append(CLASSES.names[a.label_id - 1])
    for names in people.values():
        (movement,) = set(names) & set(MOVEMENTS)
        interactions = set(names) - {movement}
        assert len(names) == len(interactions) + 1 <= 2
        assert interactions <= set(INTERACTIONS)
        assert movement in ("stand", "sit") or not interactions


def test_boxes_are_inside_the_frame_and_large_enough_to_see(test_split: list[Annotation]) -> None:
    boxes = np.array([a.box for a in test_split])
    assert boxes.min() >= 0
    assert boxes.max() <= 1
    sizes = (boxes[:, 2:] - boxes[:, :2]) * [320, 180]
    assert sizes.min() >= 3
    assert sizes.prod(axis=1).min() >= 100


def test_there_are_up_to_twelve_people() -> None:
    numbers = [i for i in range(160) if i < 12 or SCENARIOS[i % len(SCENARIOS)] == "crowd"]
    counts = {len(HallVideo(seed=0, split="train", number=i).plan().actors) for i in numbers}
    assert min(counts) == 3
    assert max(counts) == 12


def test_train_and_test_share_no_body() -> None:
    def bodies(split: str) -> set[str]:
        videos = (HallVideo(seed=0, split=split, number=i) for i in range(10))
        return {repr(actor.body) for video in videos for actor in video.plan().actors}

    assert not bodies("train") & bodies("test")


MAKERS: dict[str, Callable[[Clock, np.random.Generator], tuple[Act, ...]]] = {
    "sit_down": lambda clock, rng: (cycles.sit_down(clock, rng),),
    "enter": lambda clock, rng: (acts.enter(clock, rng, outside=0.5),),
    "give": cycles.give,
}


@pytest.mark.parametrize("name", MAKERS)
def test_the_classes_of_a_pair_are_each_other_backwards(name: str) -> None:
    """Pose and place in a frame are those of the other class in the mirrored frame, the middle one in the same."""
    found = set()
    for seed in range(20):
        there, back = (MAKERS[name](Clock(reverse=r), np.random.default_rng(seed)) for r in (False, True))
        for one, other in zip(there, back, strict=True):
            names = [tuple(BACKWARDS.get(name, name) for name in names) for names in one.classes]
            assert other.classes == names[::-1]
            found |= {name for act in (one, other) for names in act.classes for name in names}
            one_motion, other_motion = (
                make_motion(act, np.random.default_rng(seed), side=1, travel=(0.3, 0.9)) for act in (one, other)
            )
            pairs = [(one.path_T, other.path_T), (one.hold_T, other.hold_T)]
            pairs += [
                (getattr(one_motion, field.name), getattr(other_motion, field.name))
                for field in dataclasses.fields(one_motion)
            ]
            for forwards, backwards in pairs:
                # Frame i is at i / 25 s, its mirror image 6 s minus that; the ends lack a neighbour.
                np.testing.assert_allclose(forwards[2:-1], backwards[2:-1][::-1], atol=1e-9)
    assert {name, BACKWARDS[name]} <= found


def _one_colour(scene: Scene, white: int | None) -> Scene:
    """The scene with everybody in black, except one person in white."""
    actors = []
    for actor in scene.actors:
        colour = (255, 255, 255) if actor.person_id == white else (0, 0, 0)
        person = dataclasses.replace(
            actor.body.person, skin=colour, hair=colour, hat=None, top=colour, bottom=colour, shoes=colour
        )
        actors.append(dataclasses.replace(actor, body=dataclasses.replace(actor.body, person=person, second=colour)))
    return dataclasses.replace(scene, actors=tuple(actors))


def test_boxes_are_of_what_is_seen_of_each_person(crowd: tuple[HallVideo, Scene]) -> None:
    """Where a person is in the picture is where it changes with the person's colour."""
    video, scene = crowd
    boxes = {a.person: a.box for a in video.annotations(scene) if a.timestamp == 2}
    assert len(boxes) >= 6

    def picture(white: int | None) -> np.ndarray:
        (frame_HW3,) = islice(video.frames(_one_colour(scene, white)), 50, 51)
        return frame_HW3.astype(np.int16)

    black_HW3 = picture(None)
    for person, box in boxes.items():
        seen_HW = np.abs(picture(person) - black_HW3).max(axis=-1) > 8
        rows, columns = np.flatnonzero(seen_HW.any(axis=1)), np.flatnonzero(seen_HW.any(axis=0))
        expected = (columns[0] / 320, rows[0] / 180, (columns[-1] + 1) / 320, (rows[-1] + 1) / 180)
        np.testing.assert_allclose(box, expected, atol=1e-9, err_msg=f"person {person}")


def test_who_is_hidden_has_no_box(crowd: tuple[HallVideo, Scene]) -> None:
    video, scene = crowd
    corners = np.array([[-50.0, -50.0], [900.0, -50.0], [900.0, 900.0], [-50.0, 900.0]])
    curtain = Prop(row=999.0, parts=(((200, 0, 0), 1.0, corners),))
    assert video.annotations(scene)
    assert video.annotations(dataclasses.replace(scene, props=(curtain,))) == []


def test_the_folder_is_a_data_set_and_does_not_depend_on_the_number_of_processes(tmp_path: Path) -> None:
    for processes in (1, 2):
        out = tmp_path / str(processes)
        render_dataset(out, seed=3, train_videos=1, test_videos=1, style="b", processes=processes)
    assert digests(tmp_path / "1") == digests(tmp_path / "2")
    dataset = Dataset.open(tmp_path / "1")
    assert dataset.name == "synthetic"
    assert dataset.label_map is not None
    assert dict(zip(dataset.label_map.names, dataset.label_map.types, strict=True)) == {
        name: "PERSON_MOVEMENT" if name in MOVEMENTS else "PERSON_INTERACTION" for name in CLASSES.names
    }
    info = dataset.split("test").media.info("synthetic_test_0000")
    assert (info.width, info.height, info.num_frames) == (320, 180, NUM_FRAMES)


def test_styles_are_those_of_the_command(tmp_path: Path) -> None:
    (option,) = (param for param in synth.params if param.name == "style")
    assert tuple(option.type.choices) == tuple(STYLES)
    with pytest.raises(InputError, match="style is 'c': it must be one of a, b"):
        render_dataset(tmp_path / "none", seed=0, train_videos=1, test_videos=0, style="c")
