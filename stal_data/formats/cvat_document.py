"""One XML document of CVAT 1.1: tracks of boxes, or images with boxes, of one task or of the tasks of a project."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Any
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

from stal_data.errors import InputError, shown
from stal_data.formats.fields import BadFieldError, integer, number
from stal_data.formats.sources import Reading
from stal_data.formats.tracks import (
    Box,
    NumberedImages,
    PersonBox,
    Point,
    Track,
    VideoAnnotations,
    checked_box,
    numbered_image,
)

MAX_DEPTH = 32
_NO_ACTION = ("", "false", "__undefined__")
_FREE = ("number", "text")
"""Attributes without a choice of values, which are no actions unless they are named."""
_FRAME = re.compile(r"frame_(\d{6,12})(\.\w+)?")
"""How CVAT names the frames of a video in CVAT for images; they count from 0."""
_ONLY = ""
"""Key of the task of a document that is about one."""


class Document(ElementTree.TreeBuilder):
    """Takes in one element of the top level at a time. A DTD is refused, and with it all entities.

    path: what messages call the document. name: of a video that has none in it.
    """

    def __init__(self, path: str, name: str, reading: Reading) -> None:
        super().__init__()
        self.meta = Element("meta")
        self.left_out: Counter[str] = Counter()
        self._tasks: dict[str, Element] = {}
        self._tracks: dict[str, list[Track]] = defaultdict(list)
        self._images: dict[str, NumberedImages] = defaultdict(NumberedImages)
        self._path, self._name, self._reading, self._depth = path, name, reading, 0
        self._kinds: dict[str, dict[str, str]] = {}
        """Of each label, the attributes that hold actions, each with its kind: checkbox, select or radio."""

    def doctype(self, *_: object) -> None:
        raise InputError(f"{self._path}: a DTD is refused, since CVAT writes none: remove <!DOCTYPE ...>.")

    def start(self, tag: Any, attrs: Any) -> Element:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise InputError(f"{self._path}: elements are nested deeper than {MAX_DEPTH}: this is no file of CVAT.")
        return super().start(tag, attrs)

    def end(self, tag: Any) -> Element:
        element = super().end(tag)
        self._depth -= 1
        if self._depth == 1:
            self._take(element)
            element.clear()
        return element

    def _take(self, element: Element) -> None:
        if element.tag == "meta":
            self.meta.extend(element)
            for label in self.meta.iter("label"):
                kinds = {item.findtext("name", ""): item.findtext("input_type", "") for item in label.iter("attribute")}
                chosen = {name: kind for name, kind in kinds.items() if self._is_action(name, kind)}
                self._kinds[label.findtext("name", "")] = chosen
            one = next((found for tag in ("task", "job") if (found := self.meta.find(tag)) is not None), None)
            several = self.meta.findall("project/tasks/task") if one is None else []
            self._tasks = {_ONLY: one} if one is not None else {task.findtext("id", ""): task for task in several}
        if element.tag == "image":
            self._take_image(element, f"{self._path}, image {element.get('id')}")
        if element.tag == "track":
            where = f"{self._path}, track {element.get('id')}"
            points = [self._point(box, element.get("label", ""), where) for box in element.findall("box")]
            if points:
                self._tracks[self._task_of(element, where)].append(Track(_whole(element, "id", where), points, where))
            else:
                self.left_out[f"tracks of {element[0].tag if len(element) else 'nothing'}"] += 1

    def _take_image(self, image: Element, where: str) -> None:
        task, name = self._task_of(image, where), image.get("name", "")
        found = _FRAME.fullmatch(name)
        if found and (found[2] is None or self._tasks[task].findtext("source")):
            video, frame = self._video_of(task), int(found[1])
        else:
            video, frame = numbered_image(name, self._reading.first_frame, where)
        size = (_whole(image, "width", where), _whole(image, "height", where))
        people = self._images[task].add(video, frame, size, where)
        for index, shape in enumerate(image):
            if shape.tag != "box":
                self.left_out[f"shapes of images: {shape.tag}"] += 1
                continue
            place = f"{where}, shape [{index}]"
            sides = checked_box(place, *_sides(shape, place))
            people.append(PersonBox(-1, sides, tuple(self._actions(shape, shape.get("label", "")))))

    def _task_of(self, element: Element, where: str) -> str:
        key = _ONLY if _ONLY in self._tasks else element.get("task_id", "")
        if key not in self._tasks:
            known = ", ".join(self._tasks) or "none"
            raise InputError(
                f"{where}: task_id is {shown(key)}, but must be that of a task in <meta>, of which there are: {known}. "
                "Export the task or the project again."
            )
        return key

    def _video_of(self, key: str) -> str:
        task = self._tasks[key]
        source = task.findtext("source") or (self.meta.findtext("source") if key == _ONLY else None)
        return source or task.findtext("name") or self._name

    def videos(self) -> Iterator[VideoAnnotations]:
        """Yield the videos of the tasks. The subset of a project's task is the split of its video."""
        if not self._tasks:
            raise InputError(f"{self._path} has no task, job or project with tasks in <meta>. Export it again.")
        for key, task in self._tasks.items():
            subset = "" if key == _ONLY else task.findtext("subset") or ""
            splits = None if subset.lower() in ("", "default") else (subset,)
            for video, frames in self._images[key].videos.items():
                yield VideoAnnotations(name=video, size=self._images[key].sizes[video], images=frames, splits=splits)
            if any(images.videos for images in self._images.values()):
                continue
            where = f"{self._path}, <meta>"
            first, size = (_whole(task, name, where, 0) for name in ("start_frame", "size"))
            step = Element("frame_filter", step=task.findtext("frame_filter", "").partition("step=")[2] or "1")
            width, height = (_whole(task, f"original_size/{name}", where, 0) for name in ("width", "height"))
            yield VideoAnnotations(
                name=self._video_of(key),
                size=(width, height) if width and height else None,
                tracks=self._tracks[key],
                frames=range(first, first + _whole(step, "step", where) * (size - 1) + 1) if size else range(0),
                splits=splits,
            )

    def _is_action(self, name: str, kind: str) -> bool:
        chosen = self._reading.action_attributes
        return name in chosen if chosen else kind not in _FREE

    def _point(self, box: Element, label: str, where: str) -> Point:
        where = f"{where}, frame {box.get('frame')}"
        visible = box.get("outside") != "1"
        x1, y1, x2, y2 = _sides(box, where)
        # Of the box of somebody who is gone only the way there counts.
        sides = checked_box(where, x1, y1, x2, y2) if visible else (x1, y1, x2, y2)
        drawn = box.get("keyframe", "1") == "1"
        return Point(_whole(box, "frame", where), sides, tuple(self._actions(box, label)), visible=visible, drawn=drawn)

    def _actions(self, box: Element, label: str) -> Iterator[str]:
        """Yield the chosen values, and the names of checkboxes; of a label without such attributes its name."""
        kinds = self._kinds.get(label, {})
        values = {item.get("name", ""): (item.text or "").strip() for item in box.findall("attribute")}
        if not kinds:
            yield label
        for name in kinds:
            value = values.get(name, "")
            if value.lower() not in _NO_ACTION:
                yield name if value.lower() == "true" else value

    def actions(self) -> Iterator[str]:
        """Yield the names that the labels declare. A label of a skeleton's part has a parent."""
        for label in self.meta.iter("label"):
            kinds = self._kinds[label.findtext("name", "")]
            if not kinds and label.find("parent") is None and label.findtext("type", "any") in ("any", "rectangle"):
                yield label.findtext("name", "")
            for item in label.iter("attribute"):
                name = item.findtext("name", "")
                if kinds.get(name) == "checkbox":
                    yield name
                elif name in kinds and kinds[name] not in _FREE:
                    yield from (v for v in item.findtext("values", "").splitlines() if v.lower() not in _NO_ACTION)


def _sides(box: Element, where: str) -> Box:
    if box.get("rotation", "0").strip("0.") != "":
        raise InputError(f"{where}: the box is rotated, but boxes must be upright: set its rotation to 0.")
    try:
        x1, y1, x2, y2 = (number(side, box.get(side, "")) for side in ("xtl", "ytl", "xbr", "ybr"))
    except BadFieldError as error:
        raise InputError(f"{where}: {error}") from None
    return x1, y1, x2, y2


def _whole(element: Element, name: str, where: str, default: int | None = None) -> int:
    """Return an attribute, or the text of an element below; without a default it must be there."""
    text = element.get(name) or element.findtext(name)
    try:
        value = default if text is None and default is not None else integer(name, text or "")
    except BadFieldError as error:
        raise InputError(f"{where}: {error}") from None
    if not 0 <= value <= 10**12:
        raise InputError(f"{where}: {name} is {value}, but must be from 0 to {10**12}.")
    return value
