"""CSV files in AVA's format, also those of AVA-Kinetics, with the names of a label map."""

from itertools import islice

from stal_data.csv_lines import read_csv
from stal_data.errors import InputError
from stal_data.formats.ava import AVA
from stal_data.formats.fields import BadFieldError
from stal_data.formats.sources import Reading, Source, ToolFormat
from stal_data.formats.tracks import MILLISECONDS, FileAnnotations, PersonBox, VideoAnnotations, checked_box
from stal_data.rows import RowProblem, read_rows

_LOOKED_AT = 100
"""Rows that tell the format from others."""


def _read(source: Source, reading: Reading) -> FileAnnotations:
    if reading.label_map is None:
        raise InputError(
            f"{source.path} has the ids of actions, not their names: give the label map, --label-map FILE."
        )
    names = {label.id: label.name for label in reading.label_map.labels}
    videos: dict[str, dict[int, list[PersonBox]]] = {}
    for row in read_rows(source.path, AVA):
        where = f"{source.path}, line {row.line}"
        if isinstance(row, RowProblem):
            raise InputError(f"{where}: {row.message}")
        people = videos.setdefault(row.key.video, {}).setdefault(row.key.time_ms, [])
        if row.box is not None:
            actions = () if row.label is None else (names.get(row.label, f"label id {row.label}"),)
            people.append(PersonBox(row.person, checked_box(where, *row.box), actions))
    found = [
        VideoAnnotations(name=video, fps=MILLISECONDS, pixels=False, images=images) for video, images in videos.items()
    ]
    return FileAnnotations(videos=found)


def _lacks(source: Source) -> str | None:
    if source.kind != "text":
        return source.lacks_kind("text")
    line = 0
    try:
        for line, fields in islice(read_csv(source.path), _LOOKED_AT):
            AVA.parse(fields, line)
    except BadFieldError as error:
        return f"in line {line} {error}"
    except InputError as error:
        return str(error)
    return None if line else "it is empty"


AVA_FILE = ToolFormat(name="ava", lacks=_lacks, read=_read)
