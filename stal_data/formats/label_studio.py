"""Label Studio's JSON of videos: rectangles with key frames, `enabled` until the person is gone."""

import re
from collections import Counter
from collections.abc import Sequence
from fractions import Fraction
from pathlib import PurePosixPath
from typing import Any

from pydantic import AliasChoices, Field, RootModel

from stal_data.errors import InputError
from stal_data.formats.sources import Foreign, Reading, Source, ToolFormat
from stal_data.formats.tracks import FileAnnotations, Point, Track, VideoAnnotations, checked_box

_UPLOADED = re.compile(r"[0-9a-f]{8}-(?=.)")
"""What Label Studio puts before the name of an uploaded file."""

_KINDS = {"annotations", "predictions"}


class _KeyFrame(Foreign):
    """Sides in percent of the picture; frames from 1."""

    frame: int = Field(ge=1, le=10**12)
    enabled: bool
    x: float
    y: float
    width: float
    height: float
    rotation: float = 0
    time: float = 0


class _Value(Foreign):
    sequence: tuple[_KeyFrame, ...] = ()
    labels: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()
    framesCount: int = Field(default=0, ge=0, le=10**12)  # noqa: N815
    duration: float = 0


class _Result(Foreign):
    id: str = ""
    type: str
    value: _Value = _Value()


class _Annotation(Foreign):
    result: list[_Result]
    was_cancelled: bool = False
    ground_truth: bool = False


class _Task(Foreign):
    """Predictions count where a task has no `annotations`, which every export has."""

    data: dict[str, Any]
    annotations: list[_Annotation] = Field(validation_alias=AliasChoices("annotations", "predictions"))


class _Tasks(RootModel[list[_Task]]):
    pass


def _read(source: Source, _: Reading) -> FileAnnotations:
    left_out: Counter[str] = Counter()
    videos = []
    tasks = source.model(_Tasks).root
    # Where the regions have choices, their label only says that they are people.
    choices = any(result.type == "choices" for task in tasks for item in task.annotations for result in item.result)
    for number, task in enumerate(tasks):
        where = f"{source.path}, task [{number}]"
        done = [item for item in task.annotations if not item.was_cancelled]
        done = [item for item in done if item.ground_truth] or done
        if len(done) > 1:
            raise InputError(f"{where} has {len(done)} annotations, but may have one: mark one as ground truth.")
        if done:
            videos.append(_video(task, done[0].result, choices, where, left_out))
        else:
            left_out["tasks without an annotation"] += 1
    return FileAnnotations(videos=videos, left_out=left_out)


def _video(
    task: _Task, results: Sequence[_Result], by_choice: bool, where: str, left_out: Counter[str]
) -> VideoAnnotations:
    path = task.data.get("video")
    if not isinstance(path, str):
        raise InputError(f"{where}: its data have no 'video': name the video's field so in the labeling setup.")
    regions = [result for result in results if result.type == "videorectangle"]
    choices = {result.id: result.value.choices for result in results if result.type == "choices"}
    left_out.update(
        f"results of type {item.type}" for item in results if item.type not in ("videorectangle", "choices")
    )
    tracks = [
        Track(person, _points(region, choices.get(region.id, ()) if by_choice else region.value.labels, where), where)
        for person, region in enumerate(regions, start=1)
    ]
    return VideoAnnotations(
        name=_UPLOADED.sub("", PurePosixPath(path.partition("?")[0]).name, count=1),
        fps=_rate(regions),
        pixels=False,
        tracks=tracks,
        frames=range(max((region.value.framesCount for region in regions), default=0)),
    )


def _points(region: _Result, actions: Sequence[str], where: str) -> list[Point]:
    """A person is still seen on the frame of a key frame that is not enabled, and gone from the next one on."""
    points: dict[int, Point] = {}
    for item in sorted(region.value.sequence, key=lambda key_frame: key_frame.frame):
        at = f"{where}, region {region.id}, frame {item.frame}"
        if item.rotation:
            raise InputError(f"{at} is rotated, but boxes must be upright: set its rotation to 0.")
        x, y = item.x / 100, item.y / 100
        box = checked_box(at, x, y, x + item.width / 100, y + item.height / 100)
        points[item.frame - 1] = Point(item.frame - 1, box, tuple(actions))
        if not item.enabled:
            points[item.frame] = Point(item.frame, box, tuple(actions), visible=False)
    return list(points.values())


def _rate(regions: Sequence[_Result]) -> Fraction | None:
    """Return the frames a second by which the file counts: a key frame's `time` is its number over that rate."""
    timed = [item for region in regions for item in region.value.sequence if item.time > 0]
    last = max(timed, key=lambda item: item.frame, default=None)
    return None if last is None else Fraction(last.frame / last.time).limit_denominator(1001)


def _lacks(source: Source) -> str | None:
    if source.kind != "JSON":
        return source.lacks_kind("JSON")
    tasks = source.json if isinstance(source.json, list) else []
    if tasks and all(isinstance(task, dict) and "data" in task and task.keys() & _KINDS for task in tasks):
        return None
    return "it is no list of tasks with 'data' and 'annotations' or 'predictions' (export as JSON, not JSON-MIN)"


LABEL_STUDIO = ToolFormat(name="label_studio", lacks=_lacks, read=_read)
