"""Writes CVAT for video 1.1, one file a video: a label `person` with a checkbox for each action."""

from collections.abc import Iterator, Sequence
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from stal_data.formats.tracks import PersonBox, VideoAnnotations


def cvat_xml(video: VideoAnnotations, actions: Sequence[str]) -> bytes:
    """Return a video with relative boxes as tracks, with a drawn box at each of its key frames.

    Between key frames CVAT moves the box. A person who is not at the next key frame is outside from there on.
    People of unknown id are tracks of one frame each.
    """
    assert video.size is not None
    width, height = video.size
    frames = sorted(video.images)
    root = Element("annotations")
    _add(root, version="1.1")
    task = SubElement(SubElement(root, "meta"), "task")
    _add(task, name=video.name, size=frames[-1] - frames[0] + 1, mode="interpolation")
    _add(task, start_frame=frames[0], stop_frame=frames[-1])
    label = SubElement(SubElement(task, "labels"), "label")
    _add(label, name="person")
    attributes = SubElement(label, "attributes")
    for action in actions:
        kind = {"mutable": True, "input_type": "checkbox", "default_value": "false", "values": "false"}
        _add(SubElement(attributes, "attribute"), name=action, **kind)
    _add(SubElement(task, "original_size"), width=width, height=height)
    for number, boxes in _tracks(video, frames):
        track = SubElement(root, "track", id=str(number), label="person", source="manual")
        for frame, person, outside in boxes:
            x1, y1, x2, y2 = person.box
            sides = {"xtl": x1 * width, "ytl": y1 * height, "xbr": x2 * width, "ybr": y2 * height}
            state = {"frame": frame, "outside": int(outside), "occluded": 0, "keyframe": 1, "z_order": 0, **sides}
            box = SubElement(track, "box", {name: str(value) for name, value in state.items()})
            for action in actions:
                SubElement(box, "attribute", name=action).text = str(action in person.actions).lower()
    indent(root)
    return bytes(tostring(root, encoding="utf-8", xml_declaration=True)) + b"\n"


def _add(parent: Element, **texts: object) -> None:
    for tag, text in texts.items():
        SubElement(parent, tag).text = str(text)


def _tracks(video: VideoAnnotations, frames: Sequence[int]) -> Iterator[tuple[int, list[tuple[int, PersonBox, bool]]]]:
    free = max((person.person for people in video.images.values() for person in people), default=0) + 1
    following = dict(zip(frames, [*frames[1:], frames[-1] + 1], strict=True))
    known: dict[int, list[tuple[int, PersonBox, bool]]] = {}
    for frame in frames:
        for person in video.images[frame]:
            if person.person < 0:
                yield max(free, 1), [(frame, person, False), (frame + 1, person, True)]
                free += 1
                continue
            boxes = known.setdefault(person.person, [])
            if boxes and boxes[-1][0] == frame:
                boxes.pop()
            boxes += [(frame, person, False), (following[frame], person, True)]
    yield from known.items()
