"""Example key frames: the image, ground truth and predictions drawn over it, and what became of each."""

import base64
from collections.abc import Mapping, Sequence
from html import escape
from string import ascii_uppercase
from typing import TYPE_CHECKING

from stal_data.times import format_time
from stal_eval.examples import Box, Example, Mark
from stal_eval.report.drawing import Drawing
from stal_eval.report.wording import ROW_WORDS, TRUTH_WORDS, points

if TYPE_CHECKING:
    from stal_eval.report.pictures import Picture, Pictures

_RIGHT = ("found", "correct")


def key_frames(
    ap_of_class: Mapping[str, float | None], examples: Sequence[Example], pictures: "Pictures | None"
) -> str:
    """ap_of_class: AP by name, in the order of the label map."""
    if pictures is None:
        return "<p>Give the data set with <code>--frames</code> to see the key frames with most errors here.</p>"
    if not examples:
        return "<p>There is no error to show.</p>"
    shown = "".join(
        _figure(example, pictures.by_key[example.key], ap_of_class)
        for example in examples
        if example.key in pictures.by_key
    )
    left_out = "".join(f"<li>{escape(str(key))}: {escape(why)}</li>" for key, why in pictures.left_out.items())
    note = f"<p>Without a picture:</p><ul>{left_out}</ul>" if left_out else ""
    return f'<div class="frames">{shown}</div>{note}'


def _figure(example: Example, picture: "Picture", ap_of_class: Mapping[str, float | None]) -> str:
    names = list(ap_of_class)
    about = names[example.label]
    people, boxes = _by_box(example.ground_truth), _by_box(example.predictions)
    drawing = Drawing(picture.width, picture.height)
    for number, (box, marks) in enumerate(boxes.items(), 1):
        drawing.add(box, str(number), _worst(marks), at_top=False)
    for place, box in enumerate(people):
        drawing.add(box, _letter(place), "truth", at_top=True)
    source = base64.b64encode(picture.jpeg).decode()
    image = f'<image href="data:image/jpeg;base64,{source}" width="{picture.width}" height="{picture.height}"/>'
    truth = "".join(
        _line(_letter(place), marks, names, about, TRUTH_WORDS) for place, marks in enumerate(people.values())
    )
    rows = "".join(_line(str(place), marks, names, about, ROW_WORDS) for place, marks in enumerate(boxes.values(), 1))
    said = f"<dl>{rows}</dl>" if rows else "<p>none that reaches its threshold</p>"
    where = f"{escape(example.key.video)}, second {format_time(example.key.time_ms)}"
    return (
        f'<figure class="frame"><svg viewBox="0 0 {picture.width} {picture.height}" role="img" aria-label="{where}">'
        f"{image}{drawing.svg()}</svg><figcaption>"
        f"<h3>{escape(about)} <small>AP {points(ap_of_class[about])}</small></h3><p>{where}</p>"
        f"<h4>Ground truth</h4><dl>{truth}</dl><h4>Predictions</h4>{said}</figcaption></figure>"
    )


def _by_box(marks: Sequence[Mark]) -> dict[Box, list[Mark]]:
    grouped: dict[Box, list[Mark]] = {}
    for mark in marks:
        grouped.setdefault(mark.box, []).append(mark)
    return grouped


def _letter(place: int) -> str:
    turn, letter = divmod(place, len(ascii_uppercase))
    return ascii_uppercase[letter] + (str(turn + 1) if turn else "")


def _worst(marks: Sequence[Mark]) -> str:
    return next((mark.outcome for mark in marks if mark.outcome not in _RIGHT), marks[0].outcome)


def _line(badge: str, marks: Sequence[Mark], names: Sequence[str], about: str, words: Mapping[str, str]) -> str:
    items = []
    for mark in marks:
        name = names[mark.label]
        shown = f"<b>{escape(name)}</b>" if name == about else escape(name)
        score = "" if mark.score is None else f" {mark.score:.2f}"
        sign = "✓" if mark.outcome in _RIGHT else f"✗ <small>{escape(words[mark.outcome])}</small>"
        items.append(f"<li>{shown}{score} {sign}</li>")
    return f"<dt>{badge}</dt><dd><ul>{''.join(items)}</ul></dd>"
