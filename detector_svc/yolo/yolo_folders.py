"""From annotations to the folders that Ultralytics trains on.

OUT/data.yaml, OUT/images/{train,val}/NNNNNN_VIDEO_TTTT.{png,jpg}, OUT/labels/{train,val}/NNNNNN_VIDEO_TTTT.txt: one
image and one label file per key frame, one line `0 x_center y_center width height` (of the frame) per person. A key
frame without people is a background image with an empty label file.
"""

import os
import random
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml
from numpy.typing import NDArray

from stal_data.clips import key_frame_image, key_image_frame
from stal_data.dataset import Split
from stal_data.errors import ConflictError, InputError
from stal_data.files import naming, write_atomically
from stal_data.keyframes import AnnotatedKeyFrame
from stal_data.media import Media
from stal_data.media.frames import FrameFolders
from stal_data.media.images import decode_image, image_file_bytes, picture_to_send, shown_alike
from stal_data.times import format_time

_PNG = b"\x89PNG"
Progress = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True)
class YoloPart:
    """One side of the conversion: key frames, each with the media that its image comes from."""

    images: tuple[tuple[AnnotatedKeyFrame, Media], ...]

    @property
    def key_frames(self) -> tuple[AnnotatedKeyFrame, ...]:
        return tuple(item for item, _ in self.images)


@dataclass(frozen=True, kw_only=True)
class YoloFolder:
    """A finished conversion."""

    data_yaml: Path
    images: int
    val_images: int
    boxes: int
    """People in the training images."""


def choose_parts(
    train: Sequence[Split],
    val: Sequence[Split],
    negatives: Sequence[Split] = (),
    *,
    max_images: int | None,
    max_val_images: int,
    held_out: float,
    seed: int,
) -> tuple[YoloPart, YoloPart]:
    """Choose the key frames to train and to validate on.

    train: of one or more data sets. val: where validation comes from; none holds out that share of the videos of each
    training split (at least one), since neighbouring key frames of one video look alike.
    negatives: splits that show nobody; all their key frames are trained on, beside `max_images`.
    """
    for split in (*train, *val):
        if not split.annotated:
            raise InputError(f"Split '{split.name}' of '{split.dataset}' has no annotations to learn from.")
    for split in negatives:
        if (item := next((item for item in split.key_frames if len(item.boxes_N4)), None)) is not None:
            raise InputError(
                f"--negatives: key frame {item.key} of '{split.dataset}' has {len(item.boxes_N4)} people, but "
                "negatives show nobody. Leave its video out, or train on the data set as it is."
            )
    shuffled = random.Random(seed)
    images, val_images = [image for split in train for image in _images(split)], []
    if val:
        val_images = [image for split in val for image in _images(split)]
    else:
        held = {(split.dataset, video) for split in train for video in _held_out(split, held_out, shuffled)}
        images = []
        for split in train:
            for item, media in _images(split):
                (val_images if (split.dataset, item.key.video) in held else images).append((item, media))
    parts = (
        YoloPart(images=_sample(images, max_images, shuffled)),
        YoloPart(images=_sample(val_images, max_val_images, shuffled)),
    )
    for part, what in zip(parts, ("train", "validate"), strict=True):
        if not any(len(item.boxes_N4) for item in part.key_frames):
            raise InputError(f"None of the {len(part.images)} key frames chosen to {what} on has a person in it.")
    empty = tuple(image for split in negatives for image in _images(split))
    return YoloPart(images=parts[0].images + empty), parts[1]


def _images(split: Split) -> list[tuple[AnnotatedKeyFrame, Media]]:
    return [(item, split.media) for item in split.key_frames]


def _held_out(split: Split, share: float, shuffled: random.Random) -> list[str]:
    videos = sorted({item.key.video for item in split.key_frames})
    if len(videos) < 2:
        raise InputError(
            f"Split '{split.name}' of '{split.dataset}' has one video, so none can be held out to validate on: "
            "name a split for that with --val-split."
        )
    return shuffled.sample(videos, min(len(videos) - 1, max(1, round(share * len(videos)))))


def _sample(
    images: Sequence[tuple[AnnotatedKeyFrame, Media]], most: int | None, shuffled: random.Random
) -> tuple[tuple[AnnotatedKeyFrame, Media], ...]:
    if most is None or len(images) <= most:
        return tuple(images)
    return tuple(images[index] for index in sorted(shuffled.sample(range(len(images)), most)))


def write_yolo_folder(out: Path, train: YoloPart, val: YoloPart, *, progress: Progress | None = None) -> YoloFolder:
    """Write both parts below `out`, which must be new or empty, and is empty again when that fails."""
    if out.exists() and any(out.iterdir()):
        raise ConflictError(f"The folder '{out}' is not empty; choose a new one.")
    try:
        return _write_parts(out, train, val, progress)
    except BaseException:
        for name in ("images", "labels"):
            shutil.rmtree(out / name, ignore_errors=True)
        raise


def _write_parts(out: Path, train: YoloPart, val: YoloPart, progress: Progress | None) -> YoloFolder:
    total, done = len(train.images) + len(val.images), 0
    boxes = dict.fromkeys(("train", "val"), 0)
    for name, part in (("train", train), ("val", val)):
        images, labels = out / "images" / name, out / "labels" / name
        images.mkdir(parents=True)
        labels.mkdir(parents=True)
        for number, (item, media) in enumerate(part.images):
            stem = _file_stem(number, item)
            lines = label_lines(item.boxes_N4)
            boxes[name] += len(lines)
            _write_image(media, item, images / stem)
            with naming(path := labels / f"{stem}.txt"):
                path.write_text("".join(f"{line}\n" for line in lines), encoding="ascii")
            done += 1
            if progress is not None:
                progress(done, total)
    data_yaml = out / "data.yaml"
    content = {"path": str(out.absolute()), "train": "images/train", "val": "images/val", "names": {0: "person"}}
    write_atomically(data_yaml, yaml.safe_dump(content, sort_keys=False))
    return YoloFolder(data_yaml=data_yaml, images=len(train.images), val_images=len(val.images), boxes=boxes["train"])


def label_lines(boxes_N4: NDArray[np.float32]) -> list[str]:
    """Return the label file's lines: each box once, cut to the frame; boxes without area are left out."""
    x1, y1, x2, y2 = np.clip(boxes_N4.astype(np.float64), 0, 1).T
    lines: dict[str, None] = {}  # keeps the order
    for left, top, right, bottom in zip(x1, y1, x2, y2, strict=True):
        if right > left and bottom > top:
            numbers = ((left + right) / 2, (top + bottom) / 2, right - left, bottom - top)
            lines["0 " + " ".join(f"{number:.6f}" for number in numbers)] = None
    return list(lines)


def _file_stem(number: int, item: AnnotatedKeyFrame) -> str:
    """Unique by the number; the rest is for people who look into the folder."""
    video = re.sub(r"[^A-Za-z0-9_-]", "_", item.key.video)[:80]
    return f"{number:06d}_{video}_{format_time(item.key.time_ms)}"


def _write_image(media: Media, item: AnnotatedKeyFrame, path: Path) -> None:
    data = key_frame_image(media, item)
    if not shown_alike(data):  # the training's own reader must see what the service sees
        data = picture_to_send(decode_image(data, f"Key frame {item.key}"))
    target = path.with_name(path.name + (".png" if data.startswith(_PNG) else ".jpg"))
    if isinstance(media, FrameFolders):
        source = media.path(item.key.video, key_image_frame(item, media.info(item.key.video)))
        if image_file_bytes(source) == data:
            _link_or_copy(source, target)
            return
    with naming(target):
        target.write_bytes(data)


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source.resolve(), target)
    except OSError:  # another file system, or one without hard links
        shutil.copyfile(source, target)
