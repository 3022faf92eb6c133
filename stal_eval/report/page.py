"""The page put together: template, style, scripts and data in one file."""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any

from stal_data.files import write_atomically
from stal_eval.examples import Example
from stal_eval.report.chart_data import chart_data
from stal_eval.report.classes import class_table
from stal_eval.report.errors import breakdown, switch
from stal_eval.report.key_frames import key_frames
from stal_eval.report.optional import sections
from stal_eval.report.summary import cards, inputs, warnings
from stal_eval.report.wording import iou_words

if TYPE_CHECKING:
    from stal_eval.report.pictures import Pictures
    from stal_eval.result import Evaluation

REPORT_FILE = "report.html"
_TITLE_END = b": action localisation results</title>"


def write_report(result: "Evaluation", folder: Path | str, *, title: str, frames: Path | None = None) -> Path:
    """Write report.html into `folder` in one step; return the file's path. title, frames: as in `report_text`."""
    path = Path(folder) / REPORT_FILE
    write_atomically(path, report_text(result, title=title, frames=frames))
    return path


def report_text(result: "Evaluation", *, title: str, frames: Path | None = None) -> str:
    """Return the content of report.html.

    title: what the page calls the result, such as the name of the predictions file. frames: a data set folder whose
    media show the example key frames (needs the extra `media`).
    """
    pictures = None
    if frames is not None:
        from stal_eval.report.pictures import read_pictures

        pictures = read_pictures(frames, [example.key for example in result.details.examples])
    return render(result.metrics(), title, result.details.examples, pictures)


def is_report(path: Path) -> bool:
    """Whether a file is a page that `write_report` wrote."""
    with path.open("rb") as file:
        return _TITLE_END in file.read(10_000)


def render(
    metrics: Mapping[str, Any], title: str, examples: Sequence[Example] = (), pictures: "Pictures | None" = None
) -> str:
    """Return the page. metrics: the content of a metrics.json. examples are shown where `pictures` has their image."""
    style, script = asset("style.css"), asset("charts.js") + asset("page.js")
    return Template(asset("template.html")).substitute(
        # Only this very style and script run, and nothing is loaded, whatever a class or video is called.
        policy=f"default-src 'none'; img-src data:; style-src '{source_of(style)}'; script-src '{source_of(script)}'",
        title=escape(title),
        style=style,
        script=script,
        data=chart_data(metrics),
        cards=cards(metrics),
        warnings=warnings(metrics),
        iou=f"{metrics['iou']:g}",
        boxes=iou_words(metrics["iou"]),
        switch=switch(),
        classes=class_table(metrics),
        sections=sections(metrics),
        errors=breakdown(metrics["errors"]),
        key_frames=key_frames(metrics["per_class"], examples, pictures),
        inputs=inputs(metrics),
    )


def asset(name: str, package: str = "stal_eval.report") -> str:
    """Return the text of a file beside the modules of a package."""
    return files(package).joinpath(name).read_text(encoding="utf-8")


def source_of(text: str) -> str:
    """Return the source expression by which a content security policy allows an inline element."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
