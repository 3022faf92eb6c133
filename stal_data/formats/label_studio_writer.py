"""Writes Label Studio's JSON of videos: a region for each stretch of time in which a person shows the same actions."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise

from stal_data.formats.tracks import PersonBox, VideoAnnotations

_Seen = tuple[int, PersonBox, bool]
"""A frame (from 0), the person on it, and whether the region goes on to the next key frame."""


def label_studio_json(
    videos: Iterable[VideoAnnotations], frames: Mapping[str, int], *, model_version: str | None = None
) -> str:
    """Return a task for each video with relative boxes. Actions of a region hold all the time, as in Label Studio.

    frames: of each video, at its own rate. model_version: given, the regions are predictions, which a person corrects;
    else annotations. A task's data name the video `NAME.mp4`; correct it where the file is called otherwise. They also
    have the video's `fps`, which Label Studio takes for 24 unless the project's setup names it.
    """
    tasks: list[Mapping[str, object]] = []
    for video in videos:
        assert video.fps
        head = {"framesCount": frames[video.name], "duration": float(frames[video.name] / video.fps)}
        result: list[Mapping[str, object]] = []
        for number, seen in enumerate(_regions(video), start=1):
            names = {"id": f"region{number}", "to_name": "video"}
            box = {**head, "sequence": [_key_frame(item, float(video.fps)) for item in seen], "labels": ["person"]}
            result.append({**names, "from_name": "box", "type": "videorectangle", "value": box})
            if actions := list(seen[0][1].actions):
                choices = {**head, "choices": actions}
                result.append({**names, "from_name": "action", "type": "choices", "value": choices})
        kind, version = ("predictions", {"model_version": model_version}) if model_version else ("annotations", {})
        data = {"video": f"{video.name}.mp4", "fps": float(video.fps)}
        tasks.append({"data": data, kind: [{**version, "result": result}]})
    return json.dumps(tasks, indent=1, ensure_ascii=False) + "\n"


def _regions(video: VideoAnnotations) -> Iterator[Sequence[_Seen]]:
    """Yield the regions; a person of unknown id has one for each box."""
    frames = sorted(video.images)
    following = dict(pairwise([*frames, -1]))
    open_regions: dict[tuple[int, tuple[str, ...]], list[_Seen]] = {}
    for frame in frames:
        then = {(person.person, person.actions) for person in video.images.get(following[frame], ())}
        going_on: dict[tuple[int, tuple[str, ...]], list[_Seen]] = {}
        for person in video.images[frame]:
            who = (person.person, person.actions)
            # Of two boxes with one id, the first goes on.
            goes_on = person.person >= 0 and who in then and who not in going_on
            region = [*open_regions.pop(who, ()), (frame, person, goes_on)]
            if goes_on:
                going_on[who] = region
            else:
                yield region
        open_regions = going_on


def _key_frame(seen: _Seen, fps: float) -> Mapping[str, object]:
    frame, person, goes_on = seen
    x1, y1, x2, y2 = (100 * side for side in person.box)
    place = {"x": x1, "y": y1, "width": x2 - x1, "height": y2 - y1, "rotation": 0}
    return {"frame": frame + 1, "enabled": goes_on, "time": (frame + 1) / fps, **place}
