"""VIA 3's projects: rectangles at times of videos, or on images, with attributes of the region."""

from collections import Counter
from collections.abc import Mapping

from pydantic import Field

from stal_data.errors import InputError, shown
from stal_data.formats.sources import Foreign, Reading, Source, ToolFormat
from stal_data.formats.tracks import (
    MILLISECONDS,
    FileAnnotations,
    PersonBox,
    VideoAnnotations,
    checked_box,
    numbered_image,
)
from stal_data.times import MAX_TIME_S

_RECTANGLE, _IMAGE, _TEXT = 2, 2, 1
_PERSON = ("person", "person_id")
"""Text attributes that hold the number of the person."""


class _Attribute(Foreign):
    aname: str
    type: int
    options: dict[str, str] = Field(default_factory=dict)


class _File(Foreign):
    fname: str
    type: int = 0


class _View(Foreign):
    fid_list: list[str] = Field(min_length=1)


class _Entry(Foreign):
    vid: str
    z: tuple[float, ...] = ()
    xy: tuple[float, ...] = ()
    av: dict[str, str] = Field(default_factory=dict)


class _Project(Foreign):
    attribute: dict[str, _Attribute]
    file: dict[str, _File]
    view: dict[str, _View]
    metadata: dict[str, _Entry]


def _read(source: Source, reading: Reading) -> FileAnnotations:
    project = source.model(_Project)
    named = reading.action_attributes
    chosen = {k: a for k, a in project.attribute.items() if (a.aname in named if named else a.type != _TEXT)}
    persons = [k for k, a in project.attribute.items() if a.type == _TEXT and a.aname.lower() in _PERSON]
    videos: dict[tuple[str, bool], dict[int, list[PersonBox]]] = {}
    left_out: Counter[str] = Counter()
    for key, entry in project.metadata.items():
        where = f"{source.path}, metadata {key}"
        if len(entry.xy) != 5 or entry.xy[0] != _RECTANGLE:
            left_out["shapes other than rectangles" if entry.xy else "segments of time without a box"] += 1
            continue
        _, x, y, width, height = entry.xy
        box = checked_box(where, x, y, x + width, y + height)
        video, frame = _place(project, entry, reading, where)
        number = next((entry.av[k] for k in persons if entry.av.get(k, "").isdecimal()), "-1")
        images = videos.setdefault((video, len(entry.z) > 0), {})
        images.setdefault(frame, []).append(PersonBox(int(number[:15]), box, _actions(chosen, entry, where)))
    return FileAnnotations(
        videos=[
            VideoAnnotations(name=video, fps=MILLISECONDS if timed else None, images=images)
            for (video, timed), images in videos.items()
        ],
        actions=[name for attribute in chosen.values() for name in attribute.options.values()],
        left_out=left_out,
    )


def _place(project: _Project, entry: _Entry, reading: Reading, where: str) -> tuple[str, int]:
    """Return the video and the frame, or the milliseconds of a video file."""
    view = project.view.get(entry.vid)
    file = project.file.get(view.fid_list[0]) if view else None
    if file is None:
        raise InputError(f"{where}: vid is {shown(entry.vid)}, but the project has no such view with a file.")
    if len(entry.z) == 1 and 0 <= entry.z[0] <= MAX_TIME_S:
        return file.fname, round(1000 * entry.z[0])
    if entry.z or file.type != _IMAGE:
        raise InputError(f"{where}: z is {list(entry.z)}, but a box in a video has one time in seconds.")
    return numbered_image(file.fname, reading.first_frame, where)


def _actions(chosen: Mapping[str, _Attribute], entry: _Entry, where: str) -> tuple[str, ...]:
    """Return the names of the chosen options; a checkbox may have several, separated by commas. Text is a name."""
    names = []
    for key, attribute in chosen.items():
        value = entry.av.get(key, "")
        for option in filter(None, [value] if attribute.type == _TEXT else value.split(",")):
            if attribute.type != _TEXT and option not in attribute.options:
                raise InputError(f"{where}: {attribute.aname} is {shown(value)}, but has no option {shown(option)}.")
            names.append(attribute.options.get(option, option))
    return tuple(names)


VIA = ToolFormat(
    name="via",
    lacks=lambda source: source.lacks_keys("JSON", ("project", "attribute", "file", "view", "metadata")),
    read=_read,
)
