"""index.html: the page that plays videos with their people drawn over them."""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from html import escape
from pathlib import Path
from string import Template
from typing import Any
from urllib.parse import quote

from cache.files import replacing
from cli.workflow.results.drawing import NO_ACTION, Colour, action_colour
from cli.workflow.results.people import VideoPeople
from stal_eval.report.chart_data import inline_json
from stal_eval.report.page import asset, source_of

_ENDS = (".css", ".html", "_people.js", "_timeline.js", ".js")
_UNITS = 10_000
"""Box sides in the page are whole numbers from 0 to this, scores per mille."""
_VIDEOS = "\0"
"""Stands in the page for the data of the videos."""


@contextmanager
def writing_player(
    path: Path, names: Mapping[int, str], *, min_score: float
) -> Iterator[Callable[[VideoPeople, Path, Path | None], None]]:
    """Yield what adds a video, its file, and its annotated MP4 if there is one; at the block's end the page is written.

    It loads nothing but the videos, by paths relative to it. names: by label id. min_score: of the actions added.
    """
    style, template, *scripts = (asset(f"player{end}", "cli.workflow.results") for end in _ENDS)
    script = "".join(scripts)
    classes = {label: {"name": name, "colour": _css(action_colour(label))} for label, name in names.items()}
    page = Template(template).substitute(
        # Only this very style and script run, whatever a class or a video is called.
        policy=f"default-src 'none'; media-src 'self' file:; style-src '{source_of(style)}'; "
        f"script-src '{source_of(script)}'",
        style=style,
        script=script,
        data=inline_json({"units": _UNITS, "min_score": min_score, "no_action": _css(NO_ACTION), "classes": classes}),
        videos=_VIDEOS,
    )
    head, end = page.split(_VIDEOS)
    with replacing(path) as partial, partial.open("w", encoding="utf-8") as file:

        def add(people: VideoPeople, source: Path, annotated: Path | None) -> None:
            found = _people(people) | {
                "file": source.name,
                "source": quote(os.path.relpath(source, path.parent)),
                "annotated": None if annotated is None else quote(os.path.relpath(annotated, path.parent)),
            }
            name = escape(people.video)
            file.write(
                f'<script type="application/json" class="video" data-name="{name}">{inline_json(found)}</script>\n'
            )

        file.write(head)
        yield add
        file.write(end)


def _people(video: VideoPeople) -> dict[str, Any]:
    spans = video.spans()
    return {
        "width": video.info.width,
        "height": video.info.height,
        "length_ms": round(1000 * (video.info.start_s + video.info.duration_s)),
        "times_ms": video.times_ms,
        "edges_ms": [round(edge) for edge in (spans[0][0], *(end for _, end in spans))],
        # Of each person: id, numbers of key frames, boxes one after the other, label id, score, ... at each key frame,
        # and the times of the boxes in ms, where there are others than those of key frames.
        "people": [
            [
                person,
                [number for number, _ in track],
                [round(side * _UNITS) for _, box in video.paths[person] for side in box],
                [
                    [item for label, score in found.actions for item in (label, round(1000 * score))]
                    for _, found in track
                ],
                [round(time_ms) for time_ms, _ in video.paths[person]] if person in video.between else None,
            ]
            for person, track in video.tracks().items()
        ],
    }


def _css(colour: Colour) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour)
