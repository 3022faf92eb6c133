"""Opening data sets: splits, exclusions, own videos, and dataset.yaml mistakes."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from stal_data.clips import clip_frames, resolve_window
from stal_data.dataset import Dataset
from stal_data.errors import ConflictError, InputError, NotFoundError
from stal_data.keyframes import KeyFrame
from stal_data.own_videos import write_video_dataset
from tests.data.folders import DATASET_YAML, write_small_dataset
from tests.data.videos import constant, number_of, write_video


def test_a_split_holds_key_frames_labels_and_media(tmp_path: Path) -> None:
    dataset = Dataset.open(write_small_dataset(tmp_path))
    assert (dataset.name, dataset.split_names) == ("small", ("train", "test"))
    split = dataset.split("train")
    assert [str(item.key) for item in split.key_frames] == ["a,0001", "a,0002"]
    assert split.key_frames[0].labels == (frozenset({1, 3}), frozenset({2}))
    assert split.annotated
    assert split.label_map is not None
    assert split.label_map.names == ("stand", "walk", "wave")
    key_frame = split.key_frames[1]
    frames = clip_frames(resolve_window(key_frame, split.media.info("a")))
    assert [number_of(frame) for frame in split.media.read("a", frames)] == frames
    assert Dataset.open(tmp_path / "dataset.yaml").name == "small"


def test_excluded_key_frames_leave_the_split(tmp_path: Path) -> None:
    write_small_dataset(tmp_path)
    (tmp_path / "excluded.csv").write_text("b,0002\n")
    split = Dataset.open(tmp_path).split("test")
    assert [item.key for item in split.key_frames] == [KeyFrame("b", 1000)]
    assert split.exclusions == {KeyFrame("b", 2000)}
    (tmp_path / "excluded.csv").write_text("b,1\nb,2\n")
    with pytest.raises(InputError, match=r"Split 'test' of .* has no key frames left after 2 exclusions"):
        Dataset.open(tmp_path).split("test")


def test_an_empty_split_is_refused(tmp_path: Path) -> None:
    write_small_dataset(tmp_path)
    (tmp_path / "test.csv").write_text("")
    with pytest.raises(InputError, match=r"Split 'test' of .* has no key frames: check test.csv"):
        Dataset.open(tmp_path).split("test")


def test_an_unknown_split_offers_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"no split 'tset'. Did you mean 'test'"):
        Dataset.open(write_small_dataset(tmp_path)).split("tset")


def test_ava_annotations_over_video_files(tmp_path: Path) -> None:
    write_video(tmp_path / "movie.mp4", constant(30, 150))
    (tmp_path / "labels.pbtxt").write_text('item { name: "run" id: 10 }')
    (tmp_path / "train.csv").write_text("movie,0902,0.1,0.2,0.3,0.4,10,5\nmovie,0902,0.1,0.2,0.3,0.4,11,5\n")
    (tmp_path / "dataset.yaml").write_text(
        "name: ava\nformat: ava\nunknown_labels: drop\nlabel_map: labels.pbtxt\n"
        "media: {kind: video, root: ., start_s: 900}\nsplits: {train: {annotations: train.csv}}\n"
    )
    split = Dataset.open(tmp_path).split("train")
    (key_frame,) = split.key_frames
    assert key_frame.labels == (frozenset({10}),)
    window = resolve_window(key_frame, split.media.info("movie"))
    assert window == (51 - 32, 51 + 32)  # frame 51 is 2 seconds after the start
    middle = split.media.read("movie", [51])
    assert number_of(middle[0]) == 60


def test_own_videos_have_a_key_frame_at_every_whole_second(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    first = write_video(tmp_path / "in" / "street.mp4", constant(30, 75))
    second = write_video(tmp_path / "yard 2.mkv", constant(25, 51, start_s=3))
    write_video_dataset(tmp_path / "own", "own", [tmp_path / "in", second])
    dataset = Dataset.open(tmp_path / "own")
    split = dataset.split("all")
    assert [str(item.key) for item in split.key_frames] == [
        *("street,0000", "street,0001", "street,0002"),
        *("yard 2,0000", "yard 2,0001", "yard 2,0002"),
    ]
    assert not split.annotated
    assert split.label_map is None
    assert all(item.boxes_N4.shape == (0, 4) and item.window is None for item in split.key_frames)
    for key_frame in split.key_frames:
        frames = clip_frames(resolve_window(key_frame, split.media.info(key_frame.key.video)))
        assert split.media.read(key_frame.key.video, frames).shape[0] == 32
    assert (first.exists(), second.exists()) == (True, True)
    with pytest.raises(ConflictError, match="already holds a data set"):
        write_video_dataset(tmp_path / "own", "own", [first])


def test_own_videos_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    video = write_video(tmp_path / "a.mp4", constant(25, 30))
    with pytest.raises(NotFoundError, match=r"The video .*none.mp4 does not exist"):
        write_video_dataset(tmp_path / "own", "own", [video, tmp_path / "none.mp4"])
    with pytest.raises(InputError, match="would both be video 'a'"):
        write_video_dataset(tmp_path / "own", "own", [video, video])
    with pytest.raises(InputError, match="holds no video file"):
        write_video_dataset(tmp_path / "own", "own", [write_small_dataset(tmp_path / "small")])
    with pytest.raises(InputError, match="--name is 'a b'"):
        write_video_dataset(tmp_path / "own", "a b", [video])
    assert not (tmp_path / "own").exists()


def test_a_split_can_take_some_videos(tmp_path: Path) -> None:
    for name in ("a1", "a2", "b1"):
        write_video(tmp_path / f"{name}.mp4", constant(25, 30))
    (tmp_path / "dataset.yaml").write_text(
        "name: own\nmedia: {kind: video, root: .}\n"
        "splits: {some: {videos: [a*, b1]}, one: {videos: a2}, none: {videos: c*}}"
    )
    dataset = Dataset.open(tmp_path)
    assert {item.key.video for item in dataset.split("some").key_frames} == {"a1", "a2", "b1"}
    assert {item.key.video for item in dataset.split("one").key_frames} == {"a2"}
    with pytest.raises(NotFoundError, match=r"no video is named like 'c\*'"):
        dataset.split("none")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("label_map:", "labelmap:", "top level: unknown key 'labelmap'. Did you mean 'label_map'"),
        ("  root: frames", "  rot: frames", "media: unknown key 'rot'. Did you mean 'root'"),
        ("  root: frames\n", "", "media.root: Field required"),
        ("kind: frames", "kind: films", "media: .*'frames', 'video'"),
        ("    annotations: test.csv", "    anotations: test.csv", "splits.test: unknown key 'anotations'"),
        (
            "format: chaotic_world",
            "format: chaotic",
            "format is 'chaotic': There is no annotation format 'chaotic'. Did you mean 'chaotic_world'",
        ),
        ("label_map: labels.pbtxt\n", "", "split 'train' has annotations, so format and label_map are needed"),
        ("name: small", "name: my data", "name is 'my data': The name is 'my data', but must start with"),
        ("  root: frames", "  root: frames\n  fps: 0", "media.fps is 0: must be above 0"),
        ("  root: frames", "  root: frames\n  fps: fast", "media.fps is 'fast': write a number such as 25"),
        ("    exclusions:", "    videos: '*'\n    exclusions:", "splits.test: needs either annotations"),
        ("name: small", "name: 7", "name is 7: YAML reads this as another type than text: put it in quotes"),
        ("name: small", "name: [", "is not YAML: "),
        ("label_map: labels.pbtxt", 'label_map: "a\\0b"', r"label_map is 'a\\x00b': cannot be a path"),
        ("    annotations: test.csv", '    annotations: "\\uD800"', "splits.test.annotations is .*: cannot be a path"),
        ("  root: frames", '  root: "a\\0b"', "media.root is .*: cannot be a path"),
        (DATASET_YAML, "- 1", "must hold a map with the keys name, format"),
    ],
)
def test_a_mistake_in_dataset_yaml_names_the_key(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in DATASET_YAML
    (tmp_path / "dataset.yaml").write_text(DATASET_YAML.replace(old, new))
    with pytest.raises(InputError, match=f"dataset.yaml.*{message}"):
        Dataset.open(tmp_path)


def test_a_folder_without_dataset_yaml_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"no data set at .* `stal-cli dataset synth` and"):
        Dataset.open(tmp_path)


def test_rates_may_be_written_as_decimals_or_fractions(tmp_path: Path) -> None:
    write_small_dataset(tmp_path)
    for text, seconds in (("12.5", 6.0), ("30000/1001", 2.5025), ("50", 1.5)):
        (tmp_path / "dataset.yaml").write_text(DATASET_YAML.replace("root: frames", f"root: frames\n  fps: {text}"))
        info = Dataset.open(tmp_path).media.info("a")
        np.testing.assert_allclose(info.duration_s, seconds)


def test_reading_annotations_needs_no_decoder() -> None:
    code = "import sys, stal_data.dataset; print(*({'av', 'PIL', 'torch', 'cv2', 'grpc'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
