"""COCO's JSON, of images or with videos as in COCO-VID; categories are actions."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from fractions import Fraction
from typing import Any

from pydantic import Field

from stal_data.errors import InputError
from stal_data.formats.sources import Foreign, Reading, Source, ToolFormat
from stal_data.formats.tracks import (
    MILLISECONDS,
    Box,
    FileAnnotations,
    NumberedImages,
    PersonBox,
    VideoAnnotations,
    checked_box,
    numbered_image,
)
from stal_data.labels import LabelMap


class _Category(Foreign):
    id: int
    name: str


class _Video(Foreign):
    id: int
    name: str
    fps: float | None = Field(default=None, gt=0, le=1000)


class _Image(Foreign):
    id: int
    file_name: str = ""
    width: int = Field(gt=0)
    height: int = Field(gt=0)
    video_id: int | None = None
    frame_id: int | None = Field(default=None, ge=0, le=10**12)


class _Annotation(Foreign):
    image_id: int
    category_id: int
    bbox: Box
    iscrowd: int = 0
    track_id: int | None = None
    instance_id: int | None = None
    attributes: dict[str, Any] = Field(default_factory=dict)

    @property
    def person(self) -> int:
        ids = (self.track_id, self.instance_id, self.attributes.get("track_id"))
        return next((value for value in ids if isinstance(value, int)), -1)


class _Coco(Foreign):
    categories: list[_Category]
    images: list[_Image]
    annotations: list[_Annotation]
    videos: tuple[_Video, ...] = ()


def _read(source: Source, reading: Reading) -> FileAnnotations:
    coco, where = source.model(_Coco), str(source.path)
    names = {category.id: category.name for category in coco.categories}
    videos = {video.id: video for video in coco.videos}
    people: dict[int, list[PersonBox]] = {}
    images = NumberedImages()
    for number, image in enumerate(coco.images):
        item = f"{where}, images[{number}]"
        if image.video_id is None or image.frame_id is None:
            video, frame = numbered_image(image.file_name, reading.first_frame, item)
        elif image.video_id in videos:
            video, frame = videos[image.video_id].name, image.frame_id
        else:
            raise InputError(f"{item}: video_id is {image.video_id}, which no video has: correct it.")
        people[image.id] = images.add(video, frame, (image.width, image.height), item)
    left_out: Counter[str] = Counter()
    for number, annotation in enumerate(coco.annotations):
        item = f"{where}, annotations[{number}]"
        if annotation.image_id not in people or annotation.category_id not in names:
            raise InputError(f"{item}: its image_id or category_id is not in the file: correct them.")
        if annotation.iscrowd:
            left_out["annotations of crowds"] += 1
            continue
        x, y, width, height = annotation.bbox
        box = checked_box(item, x, y, x + width, y + height)
        person = PersonBox(annotation.person, box, (names[annotation.category_id],))
        people[annotation.image_id].append(person)
    rates = {video.name: Fraction(video.fps).limit_denominator(1001) for video in coco.videos if video.fps}
    return FileAnnotations(
        videos=[
            VideoAnnotations(name=video, fps=rates.get(video), size=images.sizes[video], images=frames)
            for video, frames in images.videos.items()
        ],
        actions=[names[number] for number in sorted(names)],
        left_out=left_out,
    )


def coco_json(videos: Iterable[VideoAnnotations], label_map: LabelMap) -> str:
    """Return videos with relative boxes in COCO-VID's form: an annotation for each person and action, boxes in pixels.

    The category ids are those of the label map; people of unknown id have no track_id.
    """
    images: list[Mapping[str, object]] = []
    annotations: list[Mapping[str, object]] = []
    entries: list[Mapping[str, object]] = []
    ids = {label.name: label.id for label in label_map.labels}
    for video in videos:
        assert video.size is not None
        assert video.fps not in (None, MILLISECONDS)
        width, height = video.size
        size = {"width": width, "height": height}
        entries.append({"id": len(entries) + 1, "name": video.name, "fps": float(video.fps or 0), **size})
        for frame, people in sorted(video.images.items()):
            image = len(images) + 1
            name = f"{video.name}/{video.name}_{frame + 1:06d}.png"
            images.append({"id": image, "video_id": len(entries), "frame_id": frame, "file_name": name, **size})
            for person in people:
                x1, y1, x2, y2 = person.box
                box = [x1 * width, y1 * height, (x2 - x1) * width, (y2 - y1) * height]
                track = {"track_id": person.person} if person.person >= 0 else {}
                for action in person.actions:
                    head = {"id": len(annotations) + 1, "image_id": image, "category_id": ids[action], **track}
                    annotations.append({**head, "bbox": box, "area": box[2] * box[3], "iscrowd": 0})
    categories = [{"id": label.id, "name": label.name} for label in label_map.labels]
    content = {"videos": entries, "images": images, "annotations": annotations, "categories": categories}
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


COCO = ToolFormat(
    name="coco",
    lacks=lambda source: source.lacks_keys("JSON", ("images", "annotations", "categories")),
    read=_read,
)
