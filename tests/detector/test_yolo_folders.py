"""Annotations become YOLO folders."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from detector_svc.yolo.yolo_folders import YoloPart, choose_parts, label_lines, write_yolo_folder
from stal_data.clips import key_frame_image
from stal_data.dataset import Dataset
from stal_data.errors import ConflictError, InputError
from stal_data.media.images import decode_image
from tests.detector.samples import write_dataset


def choose(dataset: Path, **options: object) -> tuple[YoloPart, YoloPart]:
    settings = {"max_images": None, "max_val_images": 100, "held_out": 0.1, "seed": 0} | options
    return choose_parts([Dataset.open(dataset).split("train")], [], **settings)


def test_one_label_file_per_key_frame_with_each_person_once(dataset: Path, tmp_path: Path) -> None:
    train, val = choose(dataset)
    folder = write_yolo_folder(tmp_path / "yolo", train, val)
    assert (folder.images, folder.val_images, folder.boxes) == (6, 3, 12)
    for part in ("train", "val"):
        images = sorted(path.stem for path in (tmp_path / "yolo" / "images" / part).iterdir())
        labels = sorted((tmp_path / "yolo" / "labels" / part).iterdir())
        assert images == [path.stem for path in labels]
        for path in labels:
            # 16..48 of 160 and 18..72 of 90; each of the two people has two rows in the annotations.
            assert path.read_text() == "0 0.200000 0.500000 0.200000 0.600000\n0 0.700000 0.600000 0.200000 0.600000\n"
    content = yaml.safe_load(folder.data_yaml.read_text())
    assert content["names"] == {0: "person"}
    assert (Path(content["path"]) / content["train"]).is_dir()


def test_images_are_the_key_frames_own_bytes(dataset: Path, tmp_path: Path) -> None:
    train, val = choose(dataset)
    write_yolo_folder(tmp_path / "yolo", train, val)
    for item, path in zip(train.key_frames, sorted((tmp_path / "yolo/images/train").iterdir()), strict=True):
        video, frame = item.key.video, item.key.time_ms // 40 + 4
        assert path.read_bytes() == (dataset / "frames" / video / f"{video}_{frame:06d}.png").read_bytes()


def test_a_turned_image_is_written_as_the_service_sees_it(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path / "small", videos=2, seconds=3)
    train, val = choose(dataset)
    exif = Image.Exif()
    exif[0x0112] = 3
    for path in (dataset / "frames").rglob("*.png"):
        Image.open(path).save(path, exif=exif)
    write_yolo_folder(tmp_path / "yolo", train, val)
    written = sorted((tmp_path / "yolo/images/train").iterdir())
    for (item, media), path in zip(train.images, written, strict=True):
        seen_HW3 = decode_image(key_frame_image(media, item), "a")
        np.testing.assert_array_equal(np.asarray(Image.open(path)), seen_HW3)
        assert Image.open(path).getexif().get(0x0112) is None


def test_held_out_videos_are_never_trained_on(dataset: Path) -> None:
    for seed in range(5):
        train, val = choose(dataset, seed=seed, held_out=0.4)
        videos = [{item.key.video for item in part.key_frames} for part in (train, val)]
        assert len(videos[1]) == 1
        assert not videos[0] & videos[1]
    same = [[item.key for item in choose(dataset, seed=3, max_images=3)[0].key_frames] for _ in range(2)]
    assert same[0] == same[1]


def test_a_limit_draws_from_all_over_the_split(dataset: Path) -> None:
    train, _ = choose(dataset, max_images=4)
    assert len(train.key_frames) == 4
    assert len({item.key.video for item in train.key_frames}) == 2


def test_a_key_frame_without_people_is_background(dataset: Path, tmp_path: Path) -> None:
    train, val = choose(dataset)
    empty = replace(train.key_frames[0], boxes_N4=np.zeros((0, 4), np.float32), labels=(), persons=())
    train = replace(train, images=((empty, train.images[0][1]), *train.images[1:]))
    write_yolo_folder(tmp_path / "yolo", train, val)
    first = min((tmp_path / "yolo" / "labels" / "train").iterdir())
    assert first.read_text() == ""
    assert len(list((tmp_path / "yolo" / "images" / "train").iterdir())) == 6


def test_several_data_sets_and_negatives_are_one_folder(dataset: Path, tmp_path: Path) -> None:
    """Videos of one name in two data sets are two videos; each data set holds one of its own out."""
    other = write_dataset(tmp_path / "other", videos=2, seconds=3)
    splits = [Dataset.open(folder).split("train") for folder in (dataset, other)]
    splits[1] = replace(splits[1], dataset="other")
    nobody = [
        replace(item, boxes_N4=np.zeros((0, 4), np.float32), labels=(), persons=()) for item in splits[1].key_frames
    ]
    empty = replace(splits[1], key_frames=tuple(nobody), annotated=False)
    options = {"max_images": None, "max_val_images": 100, "held_out": 0.1, "seed": 0}
    train, val = choose_parts(splits, [], [empty], **options)
    folder = write_yolo_folder(tmp_path / "yolo", train, val)
    assert (folder.images, folder.val_images, folder.boxes) == (6 + 2 + 4, 3 + 2, 2 * (6 + 2))
    lines = [path.read_text() for path in sorted((tmp_path / "yolo" / "labels" / "train").iterdir())]
    assert [bool(text) for text in lines] == [True] * 8 + [False] * 4
    train, _ = choose_parts(splits, [], [empty], **options | {"max_images": 3})
    assert len(train.key_frames) == 3 + 4, "negatives come on top"
    _, val = choose_parts(splits[:1], splits[1:], **options)
    assert val.key_frames == splits[1].key_frames
    with pytest.raises(InputError, match=r"--negatives: key frame .* of 'other' has 2 people"):
        choose_parts(splits[:1], [], splits[1:], **options)


def test_what_cannot_be_learnt_from_is_refused(dataset: Path, tmp_path: Path) -> None:
    split = Dataset.open(dataset).split("train")
    options = {"max_images": None, "max_val_images": 9, "held_out": 0.1, "seed": 0}
    one_video = replace(split, key_frames=tuple(item for item in split.key_frames if item.key.video == "v0"))
    with pytest.raises(InputError, match="--val-split"):
        choose_parts([one_video], [], **options)
    with pytest.raises(InputError, match="no annotations"):
        choose_parts([replace(split, annotated=False)], [], **options)
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "file").touch()
    with pytest.raises(ConflictError, match="not empty"):
        write_yolo_folder(tmp_path / "used", *choose(dataset))


COORDINATE = st.floats(-0.25, 1.25, width=32)


@given(st.lists(st.tuples(COORDINATE, COORDINATE, COORDINATE, COORDINATE), max_size=5))
def test_label_lines_give_the_visible_boxes_back(rows: list[tuple[float, float, float, float]]) -> None:
    boxes_N4 = np.array(rows, np.float32).reshape(-1, 4)
    lines = label_lines(np.concatenate([boxes_N4, boxes_N4]))
    visible = {tuple(row) for row in np.clip(boxes_N4, 0, 1) if row[0] < row[2] and row[1] < row[3]}
    assert len(lines) <= len(visible)
    assert len(lines) == len(set(lines))
    for line in lines:
        label, x, y, width, height = map(float, line.split())
        assert label == 0
        corners = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
        assert min(np.abs(np.subtract(corners, box)).max() for box in visible) < 2e-6
