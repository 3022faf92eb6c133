"""COCO JSON: key frames as images, each action of each person as an annotation."""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

from cache.files import replacing
from cli.workflow.results.people import VideoPeople
from stal_data.media import DEFAULT_PATTERN
from stal_data.media.timeline import frame_at


@contextmanager
def writing_coco(path: Path, names: Mapping[int, str]) -> Iterator[Callable[[VideoPeople], None]]:
    """Yield what adds a video; the file takes its place when the block ends well. names: by label id.

    Boxes are x, y, width, height in pixels of the video as shown. Beside COCO's fields, an image has those of its video
    and its time, and an annotation a score and the id of the person in the video. The file name of an image is that
    which `ffmpeg -i VIDEO.mp4 -vf fps=25 VIDEO/VIDEO_%06d.png` gives to it.
    """
    images: list[dict[str, Any]] = []
    videos: list[dict[str, Any]] = []
    numbers = count(1)
    with replacing(path) as partial, partial.open("w", encoding="utf-8") as file:

        def add(video: VideoPeople) -> None:
            videos.append({"id": len(videos) + 1, "name": video.video})
            for time_ms, there in zip(video.times_ms, video.people, strict=True):
                images.append(_image(len(images) + 1, len(videos), video, time_ms))
                for person, found in sorted(there.items()):
                    for label, score in found.actions:
                        number = next(numbers)
                        annotation = {
                            "id": number,
                            "image_id": len(images),
                            "category_id": label,
                            **_place(found.box, video),
                            "iscrowd": 0,
                            "score": round(score, 4),
                            "track_id": person,
                        }
                        file.write(f"{',' if number > 1 else ''}\n{json.dumps(annotation)}")

        # Annotations are the many: written as they come, before the images that they refer to.
        file.write('{"annotations": [')
        yield add
        categories = [{"id": label, "name": name} for label, name in names.items()]
        rest = {"images": images, "videos": videos, "categories": categories}
        file.write("\n],\n" + ",\n".join(f'"{name}": {json.dumps(value)}' for name, value in rest.items()) + "}\n")


def _image(number: int, video_number: int, video: VideoPeople, time_ms: int) -> dict[str, Any]:
    frame = frame_at(time_ms, video.video, video.info)
    return {
        "id": number,
        "video_id": video_number,
        "frame_id": frame - 1,
        "file_name": DEFAULT_PATTERN.format(video=video.video, frame=frame),
        "width": video.info.width,
        "height": video.info.height,
        "time_s": time_ms / 1000,
    }


def _place(box: tuple[float, ...], video: VideoPeople) -> dict[str, Any]:
    x1, x2 = (round(side * video.info.width, 2) for side in box[::2])
    y1, y2 = (round(side * video.info.height, 2) for side in box[1::2])
    width, height = round(x2 - x1, 2), round(y2 - y1, 2)
    return {"bbox": [x1, y1, width, height], "area": round(width * height, 2)}
