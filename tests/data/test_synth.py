"""Style a of the synthetic data set: what it promises, at full scale without pixels and with them at a small scale."""

import dataclasses
import hashlib
from collections import Counter, defaultdict
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from stal_data.dataset import Dataset
from stal_data.errors import ConflictError, InputError
from stal_data.synth import render_dataset
from stal_data.synth.base import Annotation
from stal_data.synth.classes import CARRIER, CLASSES, INTERACTIONS, MOVEMENTS
from stal_data.synth.clip import NUM_FRAMES
from stal_data.synth.scene import SCENARIOS
from stal_data.synth.video import StreetVideo

TEST_VIDEOS = 60


# From the time when it was the only style. Pixels and boxes are whole numbers, so the last bits of a processor's sines
# do not show.
UNCHANGED = {
    ("train", 0): "0d91a6fbab19071c42a2da56a09e3e80280f1d13f4919d52cd0d56f16f35f963",
    ("train", 4): "c80fd23c3692fba9f07b562d89536d175d61ae15781adad9703f1ff88a909891",
    ("test", 7): "d2481a15221140454a3022cb80e00164bfdd2e105f9bf8a52b66dac0c2252151",
}


def digests(folder: Path) -> dict[str, str]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("synth") / "data"
    render_dataset(out, seed=3, train_videos=2, test_videos=1, processes=1)
    return out


@pytest.fixture(scope="module", params=[0, 1, 17])
def test_split(request: pytest.FixtureRequest) -> list[Annotation]:
    """The annotations of a default test split, generated without pixels."""
    videos = [StreetVideo(seed=request.param, split="test", number=i) for i in range(TEST_VIDEOS)]
    return [a for video in videos for a in video.annotations(video.plan())]


def test_a_default_test_split_has_enough_of_every_class(test_split: list[Annotation]) -> None:
    counts = Counter(CLASSES.names[a.label_id - 1] for a in test_split)
    assert set(counts) == set(CLASSES.names)
    assert min(counts.values()) >= 20, counts
    assert min(counts[name] for name in MOVEMENTS) >= 36, counts
    assert len({(a.video, a.timestamp) for a in test_split}) >= 150
    assert len(MOVEMENTS) + len(INTERACTIONS) >= 10
    assert len(INTERACTIONS) >= 4


def test_every_person_has_one_movement_and_an_interaction_only_on_top_of_its_carrier(
    test_split: list[Annotation],
) -> None:
    people = defaultdict(set)
    for a in test_split:
        people[a.video, a.timestamp, a.person].add(CLASSES.names[a.label_id - 1])
    for names in people.values():
        (movement,) = names & set(MOVEMENTS)
        for interaction in names - {movement}:
            assert CARRIER[interaction] == movement


def test_every_interaction_has_its_company_and_look_alikes_lack_it(test_split: list[Annotation]) -> None:
    scenes: defaultdict[tuple[str, int], Counter[str]] = defaultdict(Counter)
    for a in test_split:
        scenes[a.video, a.timestamp][CLASSES.names[a.label_id - 1]] += 1
    lone: Counter[str] = Counter()
    for names in scenes.values():
        assert bool(names["watch"]) <= bool(names["jump"])
        assert names["greet"] in (0, 2)
        assert names["chase"] == names["flee"] <= 1
        for interaction, carrier in CARRIER.items():
            lone[interaction] += names[carrier] - sum(names[other] for other in CARRIER if CARRIER[other] == carrier)
    # Somebody who only makes the movement is at least half as frequent as somebody who interacts.
    assert min(lone.values()) >= 20, lone


def test_boxes_are_inside_the_frame_and_large_enough_to_see(test_split: list[Annotation]) -> None:
    boxes = np.array([a.box for a in test_split])
    assert boxes.min() >= 0
    assert boxes.max() <= 1
    sizes = boxes[:, 2:] - boxes[:, :2]
    assert sizes[:, 0].min() >= 9.9 / 320
    assert sizes[:, 1].min() >= 25 / 180


def test_windows_fit_into_the_video_and_centre_on_the_key_frame(test_split: list[Annotation]) -> None:
    for a in test_split:
        start, end = a.window
        assert start >= 1
        assert end <= NUM_FRAMES + 1
        assert 64 <= end - start <= 90
        assert start + (end - start) // 2 == a.timestamp * 25 + 1


def test_scenes_hold_one_to_five_people_and_pairs_of_scenarios_overlap_in_number() -> None:
    people = defaultdict(set)
    for number in range(10 * len(SCENARIOS)):
        scene = StreetVideo(seed=0, split="train", number=number).plan()
        people[scene.scenario].add(len(scene.actors))
    assert set.union(*people.values()) == {1, 2, 3, 4, 5}
    for one, other in (("chase", "run_alone"), ("greet", "wave_alone"), ("watch", "idle")):
        assert len(people[one] & people[other]) >= 2


def test_train_and_test_share_no_person() -> None:
    def people(split: str) -> set[str]:
        videos = (StreetVideo(seed=0, split=split, number=i) for i in range(30))
        return {repr(actor.figure.person) for video in videos for actor in video.plan().actors}

    assert not people("train") & people("test")


@pytest.mark.parametrize(("split", "number"), UNCHANGED)
def test_frames_and_annotations_are_those_of_earlier_versions(split: str, number: int) -> None:
    video = StreetVideo(seed=3, split=split, number=number)
    scene, found = video.plan(), hashlib.sha256()
    for a in video.annotations(scene):
        box = [round(value * size) for value, size in zip(a.box, (320, 180, 320, 180), strict=True)]
        found.update(repr((a.video, a.timestamp, box, a.label_id, a.person, a.window)).encode())
    for frame_HW3 in islice(video.frames(scene), 0, 76, 25):
        found.update(frame_HW3.tobytes())
    assert found.hexdigest() == UNCHANGED[split, number]


def test_same_seed_same_bytes_for_any_number_of_processes(small: Path, tmp_path: Path) -> None:
    render_dataset(tmp_path / "again", seed=3, train_videos=2, test_videos=1, processes=2)
    assert digests(tmp_path / "again") == digests(small)
    render_dataset(tmp_path / "other", seed=4, train_videos=0, test_videos=1, processes=1)
    assert digests(tmp_path / "other")["annotations/test_gt.csv"] != digests(small)["annotations/test_gt.csv"]


def test_the_folder_is_a_data_set(small: Path) -> None:
    dataset = Dataset.open(small)
    assert dataset.name == "synthetic"
    assert dataset.split_names == ("train", "test")
    assert dataset.label_map is not None
    assert dict(zip(dataset.label_map.names, dataset.label_map.types, strict=True)) == {
        name: "PERSON_MOVEMENT" if name in MOVEMENTS else "PERSON_INTERACTION" for name in CLASSES.names
    }
    train = dataset.split("train")
    assert len(train.key_frames) == 6
    key_frame = train.key_frames[0]
    info = train.media.info(key_frame.key.video)
    assert (info.width, info.height, info.num_frames) == (320, 180, NUM_FRAMES)
    assert (small / "annotations" / "train_gt.csv").read_text().count("\n") == sum(
        len(labels) for item in train.key_frames for labels in item.labels
    )


def test_boxes_are_tight_around_the_people_in_the_key_frame_image() -> None:
    """Outside the boxes the key frame's image shows the empty street; each side of a box touches its person."""
    videos = (StreetVideo(seed=3, split="train", number=i) for i in range(30))
    video, scene = next((v, s) for v in videos if not (s := v.plan()).sway_T2.any() and s.scenario == "run_alone")
    key_frame = 3 * 25 + 1
    boxes = {a.person: a.box for a in video.annotations(scene) if a.timestamp == 3}
    with_people_HWC = list(video.frames(scene))[key_frame - 1].astype(np.int16)
    empty_scene = dataclasses.replace(scene, actors=())
    empty_HWC = next(iter(video.frames(empty_scene))).astype(np.int16)
    changed_HW = np.abs(with_people_HWC - empty_HWC).max(axis=-1) > 12
    # Shadows are no part of a box: ignore the ground around the feet.
    inside_HW = np.zeros_like(changed_HW)
    for x1, y1, x2, y2 in (np.array(list(boxes.values())) * [320, 180, 320, 180]).round().astype(int):
        inside_HW[y1:y2, x1:x2] = True
        inside = changed_HW[y1:y2, x1:x2]
        assert inside[:2].any()
        assert inside[:, :2].any()
        assert inside[:, -2:].any()
        changed_HW[y2 - 12 : y2 + 14, max(0, x1 - 30) : x2 + 30] &= inside_HW[
            y2 - 12 : y2 + 14, max(0, x1 - 30) : x2 + 30
        ]
    assert not (changed_HW & ~inside_HW).any()


def test_an_existing_folder_is_never_overwritten(small: Path, tmp_path: Path) -> None:
    before = digests(small)
    with pytest.raises(ConflictError, match="exists already"):
        render_dataset(small, seed=0, train_videos=1, test_videos=1)
    assert digests(small) == before
    with pytest.raises(InputError, match="at least one video"):
        render_dataset(tmp_path / "none", seed=0, train_videos=0, test_videos=0)
    with pytest.raises(InputError, match="test_videos is -1"):
        render_dataset(tmp_path / "none", seed=0, train_videos=1, test_videos=-1)


def test_the_working_folder_is_refused_before_anything_is_rendered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done: list[int] = []
    with pytest.raises(ConflictError, match=r"The output '\.' cannot be replaced as a whole: name a new folder in it"):
        render_dataset(
            Path(), seed=0, train_videos=1, test_videos=0, processes=1, progress=lambda count, _: done.append(count)
        )
    assert done == []
    assert list(tmp_path.iterdir()) == []


def test_a_broken_rendering_leaves_no_folder(tmp_path: Path) -> None:
    def stop(_done: int, _total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        render_dataset(tmp_path / "data", seed=0, train_videos=1, test_videos=1, progress=stop, processes=1)
    assert not list(tmp_path.iterdir())
