"""The published pickles, `[elements, labels]` with one element for each row of a CSV; every value is checked."""

import reprlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from stal_data.errors import InputError
from stal_data.keyframes import KeyFrame
from stal_data.labels import Label, LabelMap
from stal_data.media.timeline import FPS
from stal_data.names import check_video_id
from stal_data.published.unpickle import load_plain
from stal_data.rows import BOX_SLACK

FRAME_NAME = "_%06d.png"
"""What follows the video id in the names of the published frames."""

_MAX_INT = 2**31 - 1

Box = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedBox:
    """A box (x1,y1,x2,y2 in [0,1]) with its (label, person) pairs; labels count from 0."""

    box: Box
    actions: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Element:
    """One clip of the published layout.

    window: frames from 1 on the 25 fps time line, end exclusive. mid_frame: number of the key frame's image.
    """

    key: KeyFrame
    window: tuple[int, int]
    mid_frame: int
    boxes: tuple[PublishedBox, ...]


def read_published(path: Path, content: Literal["annotations", "detections"]) -> tuple[tuple[Element, ...], LabelMap]:
    """Read a pickle; the first bad value is an error that names its element (from 0) and field.

    content: detections have a dummy label 0 on each box, any number of boxes, and boxes may be empty.
    """
    value = load_plain(path)
    if not isinstance(value, (list, tuple)) or len(value) != 2:
        raise InputError(f"{path} holds {_show(value)}, but must be [elements, labels] as the published files are.")
    elements, labels = value
    if not isinstance(elements, (list, tuple)) or not elements:
        raise InputError(f"{path}: the elements are {_show(elements)}, but must be a list with at least one.")
    label_map = LabelMap(_labels(labels, str(path)), str(path))
    # A real box takes more bytes; a file may name one long list a million times, though.
    room = path.stat().st_size
    found = []
    for number, element in enumerate(elements):
        found.append(_element(_Fields(element, f"{path}, element {number}"), label_map))
        room -= 1 + len(found[-1].boxes)
        if room < 0:
            raise InputError(f"{path} claims more elements and boxes than it has bytes: it is no published file.")
    _check_content(found, content, path)
    return tuple(found), label_map


def _check_annotated(element: Element, where: str) -> None:
    if not element.boxes:
        raise InputError(f"{where}: labels is empty, but an element of annotations is a row with one box.")
    for index, (x1, y1, x2, y2) in enumerate(entry.box for entry in element.boxes):
        if x1 >= x2 or y1 >= y2:
            raise InputError(
                f"{where}, labels[{index}]: bounding_box is {x1:g},{y1:g},{x2:g},{y2:g}, but must have x1 < x2 and "
                "y1 < y2: nobody can be in an empty box."
            )


def _check_content(elements: list[Element], content: str, path: Path) -> None:
    """Refuse the other kind of file, lest dummy labels become annotations, and what an annotation must not be."""
    actions = {action for element in elements for entry in element.boxes for action in entry.actions}
    dummy = actions <= {(0, 0)}
    if dummy and content == "annotations" and len(elements) > 1:
        raise InputError(
            f"{path}: every box has label 0 and person 0, as the detector's files have: import it with "
            "'stal-cli detect --import'."
        )
    if not dummy and content == "detections":
        raise InputError(
            f"{path}: its boxes have labels or persons other than 0, so these are annotations, not detections: import "
            "it with 'stal-cli dataset import-published'."
        )
    if content == "annotations":
        for number, element in enumerate(elements):
            _check_annotated(element, f"{path}, element {number}")


class _Fields:
    """A dict of the file; `where` is what messages call it."""

    def __init__(self, values: object, where: str) -> None:
        if not isinstance(values, Mapping):
            raise InputError(f"{where} is {_show(values)}, but must be a dict.")
        self.values, self.where = values, where

    def get(self, name: str) -> Any:
        if name not in self.values:
            known = ", ".join(map(_show, self.values))[:200] or "nothing"
            raise InputError(f"{self.where} has no '{name}', only {known}.")
        return self.values[name]

    def error(self, name: str, rule: str) -> InputError:
        return InputError(f"{self.where}: {name} is {_show(self.get(name))}, but {rule}.")

    def text(self, name: str) -> str:
        value = self.get(name)
        if not isinstance(value, str):
            raise self.error(name, "must be text")
        return value

    def whole(self, name: str, *, least: int) -> int:
        value = self.get(name)
        if not _is_whole(value) or not least <= value <= _MAX_INT:
            raise self.error(name, f"must be a whole number from {least} to {_MAX_INT}")
        return int(value)

    def numbers(self, name: str) -> list[int]:
        value = self.get(name)
        values = value if isinstance(value, (list, tuple)) else [value]
        if not values or not all(_is_whole(item) and abs(item) <= _MAX_INT for item in values):
            raise self.error(name, "must be a whole number or a list of them")
        return [int(item) for item in values]

    def each(self, name: str) -> Iterator["_Fields"]:
        value = self.get(name)
        if not isinstance(value, (list, tuple)):
            raise self.error(name, "must be a list")
        for index, item in enumerate(value):
            yield _Fields(item, f"{self.where}, {name}[{index}]")


def _element(fields: _Fields, label_map: LabelMap) -> Element:
    video = fields.text("video")
    try:
        video_id = check_video_id("video", video)
    except InputError as error:
        raise InputError(f"{fields.where}: {error}") from None
    if fields.text("format_str") != video + FRAME_NAME:
        raise fields.error("format_str", f"the published frames are named {video}{FRAME_NAME}; rename the frames")
    if fields.get("frame_rate") != FPS:
        raise fields.error("frame_rate", f"windows are counted at {FPS} frames a second; write them at that rate")
    start, frames = fields.whole("start_frame", least=-_MAX_INT), fields.whole("n_frames", least=1)
    return Element(
        key=KeyFrame(video_id, 1000 * fields.whole("time", least=0)),
        window=(start, start + frames),
        mid_frame=fields.whole("mid_frame", least=0),
        boxes=tuple(_box(entry, label_map) for entry in fields.each("labels")),
    )


def _box(fields: _Fields, label_map: LabelMap) -> PublishedBox:
    value = fields.get("bounding_box")
    if not isinstance(value, (list, tuple)) or len(value) != 4 or not all(_is_number(side) for side in value):
        raise fields.error("bounding_box", "must be four numbers x1,y1,x2,y2")
    x1, y1, x2, y2 = box = tuple(float(side) for side in value)
    if min(box) < -BOX_SLACK or max(box) > 1 + BOX_SLACK or x1 > x2 or y1 > y2:
        raise fields.error("bounding_box", "must be x1,y1,x2,y2 in [0,1] of the frame with x1 <= x2 and y1 <= y2")
    labels, persons = fields.numbers("label"), fields.numbers("person_id")
    if len(persons) == 1:
        persons = persons * len(labels)
    if len(persons) != len(labels):
        raise fields.error("person_id", f"must have as many entries as label, {len(labels)}, or one")
    for label in labels:
        if label + 1 not in label_map:
            raise fields.error(
                "label", f"labels count from 0 and label + 1 must be in the file's list, {label_map.describe_ids()}"
            )
    return PublishedBox(box=(x1, y1, x2, y2), actions=tuple(zip(labels, persons, strict=True)))


def _labels(labels: object, source: str) -> Iterator[Label]:
    if not isinstance(labels, (list, tuple)):
        raise InputError(f"{source}: the labels are {_show(labels)}, but must be a list of name, id and label_type.")
    for number, entry in enumerate(labels):
        fields = _Fields(entry, f"{source}, label {number}")
        kind = fields.text("label_type") if "label_type" in fields.values else ""
        yield Label(fields.whole("id", least=1), fields.text("name"), kind)


def _is_whole(value: object) -> bool:
    if isinstance(value, bool):
        return False
    return isinstance(value, int) or (isinstance(value, float) and value.is_integer())


def _is_number(value: object) -> bool:
    # NaN fails the comparison; a huge int passes none of float's own checks without an OverflowError.
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= _MAX_INT


def _show(value: object) -> str:
    try:
        return reprlib.repr(value)
    except ValueError:  # Python does not write out numbers of thousands of digits
        return f"a huge {type(value).__name__}"
