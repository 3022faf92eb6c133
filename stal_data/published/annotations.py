"""Ground-truth pickles as a data set: one CSV for each split, the label map and a dataset.yaml, and what was found."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import yaml

from stal_data.csv_lines import csv_text
from stal_data.dataset_spec import FILE_NAME
from stal_data.digests import sha256_of
from stal_data.errors import ConflictError, InputError
from stal_data.files import write_together
from stal_data.formats import FORMATS
from stal_data.keyframes import KeyFrame
from stal_data.labels import LabelMap
from stal_data.names import check_name
from stal_data.published.elements import Box, Element, read_published
from stal_data.rows import RowProblem, read_rows

REPORT_NAME = "import.json"
_LABEL_MAP = "list_action.pbtxt"

_Action = tuple[KeyFrame, Box, int, int]
"""Key frame, box, label from 0, person."""


@dataclass(frozen=True, kw_only=True)
class LostRow:
    """A row of the source CSV that the pickle lacks. line: from 1. label: from 0."""

    line: int
    video: str
    time_s: int
    box: Box
    label: int
    person: int


@dataclass(frozen=True, kw_only=True)
class AnnotationReport:
    """What one pickle held. duplicates_merged: elements less key frames.

    repeated_rows: rows with the same key frame, box, label and person as one before.
    key_frames_with_two_windows: the first element's window is used.
    lost_rows: rows of the source CSV that the pickle lacks; None where no CSV was given to compare with. The published
        converter takes the first row for a header, so one is lost in any case.
    rows_not_in_csv: the other way round, None likewise.
    """

    split: str
    file: str
    sha256: str
    elements: int
    rows: int
    key_frames: int
    duplicates_merged: int
    repeated_rows: int
    people: int
    key_frames_with_two_windows: int
    lost_rows: tuple[LostRow, ...] | None
    rows_not_in_csv: int | None


def import_annotations(
    output: Path,
    name: str,
    pickles: Mapping[str, Path],
    *,
    frames: str,
    csvs: Mapping[str, Path] | None = None,
) -> tuple[AnnotationReport, ...]:
    """Write a data set with a split for each pickle into the folder `output`, and the reports into `import.json`.

    Every row is kept, in its order, so that the published layout can be had from the data set; readers group by key
    frame.

    frames: folder of the videos' frame folders, for dataset.yaml. csvs: the splits' source CSVs, to name lost rows.
    """
    csvs = csvs or {}
    check_name("--name", name)
    for split in pickles:
        check_name("split", split)
    for split in csvs:
        if split not in pickles:
            raise InputError(f"A CSV is given for split '{split}', but no pickle: the splits are {', '.join(pickles)}.")
    target = output / FILE_NAME
    if target.exists():
        raise ConflictError(f"{output} already holds a data set ({target}): choose another folder, or remove the file.")
    label_map: LabelMap | None = None
    reports = []
    files: dict[Path, bytes | str] = {}
    for split, path in pickles.items():
        elements, labels = read_published(path, "annotations")
        if label_map is not None and labels != label_map:
            raise InputError(f"{path} and {label_map.source} list other labels; import them as two data sets.")
        label_map = label_map or labels
        files[output / f"{split}.csv"] = csv_text(_csv_rows(elements))
        reports.append(_report(split, path, elements, csvs.get(split)))
    assert label_map is not None
    files[output / _LABEL_MAP] = label_map.to_pbtxt()
    files[output / REPORT_NAME] = json.dumps([asdict(report) for report in reports], indent=2) + "\n"
    content = {
        "name": name,
        "format": "chaotic_world",
        "label_map": _LABEL_MAP,
        "media": {"kind": "frames", "root": frames},
        "splits": {split: {"annotations": f"{split}.csv", "first_row": "lost"} for split in pickles},
    }
    files[target] = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
    write_together(files)
    return tuple(reports)


def _csv_rows(elements: Iterable[Element]) -> Iterator[Sequence[object]]:
    for element in elements:
        for entry in element.boxes:
            for label, person in entry.actions:
                head = (element.key.video, element.mid_frame, *map(repr, entry.box), label, person)
                yield (*head, *element.window, f"{element.key.time_ms // 1000}.0", 0, 0)


def _actions(elements: Iterable[Element]) -> Iterator[_Action]:
    for element in elements:
        for entry in element.boxes:
            for label, person in entry.actions:
                yield element.key, entry.box, label, person


def _report(split: str, path: Path, elements: tuple[Element, ...], source: Path | None) -> AnnotationReport:
    actions = Counter(_actions(elements))
    windows: dict[KeyFrame, set[tuple[int, int]]] = {}
    for element in elements:
        windows.setdefault(element.key, set()).add(element.window)
    lost = None if source is None else _lost_rows(source, actions)
    return AnnotationReport(
        split=split,
        file=str(path),
        sha256=sha256_of(path),
        elements=len(elements),
        rows=actions.total(),
        key_frames=len(windows),
        duplicates_merged=len(elements) - len(windows),
        repeated_rows=actions.total() - len(actions),
        people=len({(key, box, person) for key, box, _, person in actions}),
        key_frames_with_two_windows=sum(len(found) > 1 for found in windows.values()),
        lost_rows=None if lost is None else lost[0],
        rows_not_in_csv=None if lost is None else lost[1],
    )


def _lost_rows(source: Path, actions: Counter[_Action]) -> tuple[tuple[LostRow, ...], int]:
    """Rows of the CSV that are missing in the pickle, and how many of the pickle's rows the CSV lacks."""
    rows: dict[_Action, list[int]] = {}
    for row in read_rows(source, FORMATS["chaotic_world"]):
        if isinstance(row, RowProblem):
            raise InputError(f"{source}, line {row.line}: {row.message}")
        assert row.box is not None
        assert row.label is not None
        rows.setdefault((row.key, row.box, row.label - 1, row.person), []).append(row.line)
    lost = [
        LostRow(line=line, video=key.video, time_s=key.time_ms // 1000, box=box, label=label, person=person)
        for (key, box, label, person), lines in rows.items()
        # Of equal rows the first ones are those that are lost.
        for line in lines[: len(lines) - min(len(lines), actions[key, box, label, person])]
    ]
    not_in_csv = sum((actions - Counter({action: len(lines) for action, lines in rows.items()})).values())
    return tuple(sorted(lost, key=lambda row: row.line)), not_in_csv
