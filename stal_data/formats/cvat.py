"""CVAT for video 1.1, of tasks and jobs: tracks of boxes, whose attributes are the actions."""

from collections import Counter
from collections.abc import Iterator
from typing import Any
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

from stal_data.errors import InputError, StalError, shown
from stal_data.formats.fields import BadFieldError, integer, number
from stal_data.formats.sources import MAX_BYTES, Reading, Source, ToolFormat
from stal_data.formats.tracks import FileAnnotations, Point, Track, VideoAnnotations, checked_box
from stal_data.user_files import open_regular

_CHUNK = 1 << 16
MAX_DEPTH = 32
_NO_ACTION = ("", "false", "__undefined__")
_FREE = ("number", "text")
"""Attributes without a choice of values, which are no actions unless they are named."""


class _Document(ElementTree.TreeBuilder):
    """Takes in one element of the top level at a time. A DTD is refused, and with it all entities."""

    def __init__(self, source: Source, reading: Reading) -> None:
        super().__init__()
        self.meta = Element("meta")
        self.tracks: list[Track] = []
        self.left_out: Counter[str] = Counter()
        self._path, self._reading, self._depth = source.path, reading, 0
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
        if element.tag == "image":
            raise InputError(f"{self._path}: this is CVAT for images. Export the task as 'CVAT for video 1.1'.")
        if element.tag == "meta":
            self.meta.extend(element)
            for label in self.meta.iter("label"):
                kinds = {item.findtext("name", ""): item.findtext("input_type", "") for item in label.iter("attribute")}
                chosen = {name: kind for name, kind in kinds.items() if self._is_action(name, kind)}
                self._kinds[label.findtext("name", "")] = chosen
        if element.tag == "track":
            where = f"{self._path}, track {element.get('id')}"
            points = [self._point(box, element.get("label", ""), where) for box in element.findall("box")]
            if points:
                self.tracks.append(Track(_whole(element, "id", where), points, where))
            else:
                self.left_out[f"tracks of {element[0].tag if len(element) else 'nothing'}"] += 1

    def _is_action(self, name: str, kind: str) -> bool:
        chosen = self._reading.action_attributes
        return name in chosen if chosen else kind not in _FREE

    def _point(self, box: Element, label: str, where: str) -> Point:
        where = f"{where}, frame {box.get('frame')}"
        if box.get("rotation", "0").strip("0.") != "":
            raise InputError(f"{where}: the box is rotated, but boxes must be upright: set its rotation to 0.")
        visible = box.get("outside") != "1"
        try:
            x1, y1, x2, y2 = (number(side, box.get(side, "")) for side in ("xtl", "ytl", "xbr", "ybr"))
        except BadFieldError as error:
            raise InputError(f"{where}: {error}") from None
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


def _read(source: Source, reading: Reading) -> FileAnnotations:
    document, path = _Document(source, reading), source.path
    parser = ElementTree.XMLParser(target=document)  # noqa: S314 - the target refuses what defusedxml would
    with open_regular(path) as file:
        if path.stat().st_size > MAX_BYTES:
            raise InputError(f"{path} has more than {MAX_BYTES} bytes: export the jobs one by one.")
        try:
            while chunk := file.read(_CHUNK):
                parser.feed(chunk)
            parser.close()
        except StalError:
            raise
        except (ElementTree.ParseError, LookupError, ValueError) as error:  # the latter two for its encoding
            raise InputError(f"{path} is not whole XML: {error}. Export it again.") from None
    task = next((found for name in ("task", "job") if (found := document.meta.find(name)) is not None), None)
    if task is None:
        raise InputError(f"{path} has no task or job in <meta>. Export the tasks of a project one by one.")
    first, size = (_whole(task, name, f"{path}, <meta>", 0) for name in ("start_frame", "size"))
    step = Element("frame_filter", step=task.findtext("frame_filter", "").partition("step=")[2] or "1")
    width, height = (_whole(task, f"original_size/{name}", f"{path}, <meta>", 0) for name in ("width", "height"))
    source_name = task.findtext("source") or document.meta.findtext("source") or task.findtext("name") or path.stem
    video = VideoAnnotations(
        name=source_name,
        size=(width, height) if width and height else None,
        tracks=document.tracks,
        frames=range(first, first + _whole(step, "step", str(path)) * (size - 1) + 1) if size else range(0),
    )
    return FileAnnotations(videos=[video], actions=list(dict.fromkeys(document.actions())), left_out=document.left_out)


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


def _lacks(source: Source) -> str | None:
    if source.kind != "XML":
        return source.lacks_kind("XML")
    with open_regular(source.path) as file:
        start = file.read(_CHUNK)
    return None if b"<annotations" in start else f"its XML begins with {shown(start[:60].decode(errors='replace'))}"


CVAT = ToolFormat(name="cvat", lacks=_lacks, read=_read)
