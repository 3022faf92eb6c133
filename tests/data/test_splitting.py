"""Dividing by video: no video in two splits, each split its share, rare classes first, files as they were."""

from collections import Counter
from fractions import Fraction
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from cli.commands.dataset import dataset
from stal_data.dataset import Dataset
from stal_data.splitting import parse_fractions
from stal_data.stratification import KEY_FRAMES, stratify
from tests.data.folders import rows_of, write_small_dataset

THREE = parse_fractions("train=0.7,val=0.15,test=0.15")
FRACTIONS = st.lists(st.integers(1, 9), min_size=2, max_size=4).map(
    lambda parts: {f"s{place}": Fraction(part, sum(parts)) for place, part in enumerate(parts)}
)
VIDEOS = st.lists(st.dictionaries(st.integers(1, 5), st.integers(1, 9), max_size=5), min_size=4, max_size=20).map(
    lambda found: {f"v{place}": {KEY_FRAMES: 3, **counts} for place, counts in enumerate(found)}
)


@given(counts=VIDEOS, fractions=FRACTIONS, seed=st.integers(0, 9))
def test_each_video_is_in_one_split_and_no_split_is_empty(
    counts: dict[str, dict[int, int]], fractions: dict[str, Fraction], seed: int
) -> None:
    found = stratify(counts, fractions, seed)
    assert found.keys() == counts.keys()
    assert set(found.values()) == fractions.keys()
    assert found == stratify(dict(reversed(counts.items())), fractions, seed)


@given(number=st.integers(1, 60), fractions=FRACTIONS)
def test_shares_of_one_class_are_as_near_as_whole_videos_allow(number: int, fractions: dict[str, Fraction]) -> None:
    counts = {f"v{place}": {KEY_FRAMES: 1, 1: 1} for place in range(number)}
    found = Counter(stratify(counts, fractions, 0).values())
    if all(part * number >= 1 for part in fractions.values()):
        assert all(abs(found[split] - part * number) < 1 for split, part in fractions.items())
    else:  # none of them stays without a video
        assert all(found[split] for split in fractions) or number < len(fractions)


@given(counts=VIDEOS)
def test_the_class_of_the_fewest_videos_is_in_every_split_if_they_suffice(counts: dict[str, dict[int, int]]) -> None:
    videos = Counter(label for found in counts.values() for label in found if label != KEY_FRAMES)
    enough = [label for label, number in videos.items() if number >= len(THREE)]
    if enough:
        rarest = min(videos, key=lambda label: (videos[label], label))
        found = stratify(counts, THREE, 0)
        if rarest in enough:
            assert {found[video] for video, of_video in counts.items() if rarest in of_video} == THREE.keys()


def test_the_seed_decides_between_equal_videos_only() -> None:
    equal = {f"v{place}": {KEY_FRAMES: 2, 1: 1} for place in range(10)}
    assert len({tuple(stratify(equal, THREE, seed).items()) for seed in range(5)}) > 1
    unequal = {f"v{place}": {KEY_FRAMES: 1, 1: place + 1} for place in range(10)}
    assert len({tuple(sorted(stratify(unequal, THREE, seed).items())) for seed in range(5)}) == 1


def _split(*words: str | Path) -> Result:
    return CliRunner().invoke(dataset, ["split", *map(str, words)])


@pytest.fixture
def many(tmp_path: Path) -> Path:
    """The small data set with the videos a, c, d, e in train and b in test, which excludes a key frame."""
    root = write_small_dataset(tmp_path / "data")
    for video in "cde":
        (root / "frames" / video).symlink_to(root / "frames" / "a")
    (root / "train.csv").write_text("\n".join(line for video in "acde" for line in rows_of(video)) + "\n")
    (root / "excluded.csv").write_text("b,0002\n")
    return root


def test_lines_exclusions_and_media_stay_as_they_are(many: Path, tmp_path: Path) -> None:
    (many / "train.csv").write_text((many / "train.csv").read_text().replace("e,2,", '"e",2,'))
    done = _split(many, "--fractions", "train=3/5,val=1/5,test=1/5", "--output", tmp_path / "new", "--name", "new")
    assert done.exit_code == 0, done.output
    old, new = Dataset.open(many), Dataset.open(tmp_path / "new")
    assert (new.name, new.annotation_format, new.label_map) == ("new", old.annotation_format, old.label_map)
    parts = [new.split(name) for name in ("train", "val", "test")]
    assert [len({item.key.video for item in part.key_frames}) for part in parts] == [3, 1, 1]
    keys = sorted(item.key for name in old.split_names for item in old.split(name).key_frames)
    assert sorted(item.key for part in parts for item in part.key_frames) == keys
    assert frozenset().union(*(part.exclusions for part in parts)) == old.split("test").exclusions
    lines = [line for part in parts for line in (new.root / new.split_spec(part.name).annotations).read_text().split()]
    expected = [line for name in ("train", "test") for line in (many / f"{name}.csv").read_text().split()]
    assert sorted(lines) == sorted(line.replace('"', "") for line in expected)
    assert new.media.read("b", [30]).tolist() == old.media.read("b", [30]).tolist()
    (row,) = (line for line in done.stdout.splitlines() if "wave" in line)
    assert row.replace("│", " ").split() == ["wave", *(str(len(part.key_frames)) for part in parts)]


def test_a_class_in_fewer_videos_than_splits_is_named(many: Path, tmp_path: Path) -> None:
    lines = (many / "train.csv").read_text().splitlines()
    (many / "train.csv").write_text("\n".join(line for line in lines if line[0] == "a" or ",1,2," not in line))
    words = ("--from", "train", "--fractions", "train=0.5,test=0.5", "--output", tmp_path / "new", "--name", "new")
    done = _split(many, *words)
    assert done.exit_code == 0, done.output
    assert done.stderr == "Split test lacks 'walk'. Videos with it: 1, fewer than the 2 splits.\n"
    assert "already holds a data set" in str(_split(many, *words).exception)


@pytest.mark.parametrize(
    ("fractions", "message"),
    [
        ("train=0.7,test=0.2", "the sum must be 1"),
        ("train=0.5,train=0.5", "different splits"),
        ("train=1", "two or more"),
        ("train=0.5,test=5e-1", "between 0 and 1"),
        ("train=1/1,test=0/1", "between 0 and 1"),
        ("../x=0.5,y=0.5", "must start with a letter or digit"),
    ],
)
def test_bad_fractions_are_refused(fractions: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_fractions(fractions)


def test_what_cannot_be_divided_is_refused_and_nothing_is_written(many: Path, tmp_path: Path) -> None:
    out = ("--output", tmp_path / "new", "--name", "new")
    few = _split(many, "--from", "test", "--fractions", "a=0.5,b=0.5", *out)
    assert "1 video, but 2 splits need as many" in str(few.exception)
    (many / "excluded.csv").write_text("a,0001\n")
    clash = _split(many, "--fractions", "a=0.5,b=0.5", *out)
    assert "a,0001 is excluded in one split and used in another" in str(clash.exception)
    assert not (tmp_path / "new").exists()
